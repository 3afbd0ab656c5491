"""The progress of a pull names the bytes of the whole and of each layer under way."""

from gateway.docker.engine.images import _Layers


def test_the_layers_that_are_under_way_are_named_with_their_bytes() -> None:
    layers = _Layers()
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"):
        assert layers.changed_by({"id": name, "status": "Pulling fs layer"})
    assert layers.summary() == "0/3 layers, 0.0/0.0 MB"
    for name, current in (("aaaaaaaaaaaa", 1), ("bbbbbbbbbbbb", 10)):
        detail = {"current": current * 1_000_000, "total": 10_000_000}
        layers.changed_by({"id": name, "status": "Downloading", "progressDetail": detail})
    layers.changed_by({"id": "bbbbbbbbbbbb", "status": "Pull complete"})
    assert layers.summary() == "1/3 layers, 11.0/20.0 MB: aaaaaaaaaaaa 1.0/10.0"
