"""A snapshot asks the engine about images no more often than it has to."""

from typing import cast
from unittest.mock import AsyncMock

import pytest

from gateway.docker import snapshot
from gateway.docker.engine import images
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.docker.engine.images import Image

_IDENTITY = EngineIdentity(engine_id="e", name="e", version="1", platform="linux/amd64")


async def test_containers_of_one_image_cost_one_inspection(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {
            "Id": f"c{number}",
            "Names": [f"/c{number}"],
            "ImageID": f"i{number % 2}",
            "State": "running",
            "Status": "Up",
            "Labels": {"gateway.application": "a", "gateway.deployment": "d", "gateway.attempt": "1"},
        }
        for number in range(10)
    ]
    engine = cast("Engine", AsyncMock(spec=Engine, call=AsyncMock(return_value=listed)))
    inspect = AsyncMock(return_value=Image("i", "linux/amd64", frozenset({"acme/web@sha256:1"}), {}, ()))
    monkeypatch.setattr(images, "inspect", inspect)
    known: snapshot.KnownImages = {}
    found = await snapshot.take_snapshot(engine, _IDENTITY, known)
    assert {one.digests for one in found.containers.values()} == {frozenset({"sha256:1"})}
    assert sorted(call.args[1] for call in inspect.await_args_list) == ["i0", "i1"]
