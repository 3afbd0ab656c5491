"""Which image of an index an engine runs, where the index may be written to be read in two ways."""

import json
from typing import Any

import pytest

from gateway.gates._platforms import may_run, own_manifest
from gateway.gates._strict_json import Malformed

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
A, B, C = ("sha256:" + 32 * byte for byte in ("aa", "bb", "cc"))


def entry(digest: str, os: object = "linux", architecture: object = "amd64", **more: object) -> dict[str, Any]:
    named = {"os": os, "architecture": architecture} | more
    return {"mediaType": MANIFEST, "digest": digest, "size": 2, "platform": named}


def index_of(*entries: object, **more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries} | more).encode()


UNKNOWN = entry(C, "unknown", "unknown")


@pytest.mark.parametrize(
    ("index", "platform"),
    [
        (index_of(entry(A)), "linux/amd64"),
        (index_of(entry(B, architecture="386"), entry(A), entry(C, architecture="arm64"), UNKNOWN), "linux/amd64"),
        (index_of(entry(A, architecture="arm64", variant="v8"), entry(B)), "linux/arm64"),
        (index_of(entry(A, architecture="arm", variant="v7"), entry(B)), "linux/arm"),
    ],
)
def test_of_a_plain_index_only_the_manifest_of_the_platform_runs(index: bytes, platform: str) -> None:
    assert own_manifest(index, platform) == A
    assert may_run(index, platform) == (A,)


@pytest.mark.parametrize(
    ("index", "platform"),
    [
        # A reader that does not look at variants takes the first; an engine on amd64 the second.
        (index_of(entry(A, variant="v2"), entry(B)), "linux/amd64"),
        # The engine passes over the first, and runs a 32-bit image, whatever that says of itself.
        (index_of(entry(A, variant="v2"), entry(B, architecture="386")), "linux/amd64"),
        (index_of(entry(A, architecture="arm64", variant="v9"), entry(B, architecture="arm")), "linux/arm64"),
        (index_of(entry(A, **{"os.features": ["x"]}), entry(B, architecture="386")), "linux/amd64"),
        (index_of(entry(A, architecture="arm", variant="v6"), entry(B, architecture="arm", variant="v7")), "linux/arm"),
        # What an engine takes for amd64 too.
        (index_of(entry(A, architecture="x86_64"), entry(B)), "linux/amd64"),
        (index_of(entry(A, "LINUX"), entry(B)), "linux/amd64"),
        (index_of({"mediaType": MANIFEST, "digest": A, "size": 2}, entry(B)), "linux/amd64"),
        (index_of(entry(A, {}, []), entry(B)), "linux/amd64"),
        (index_of(entry(A, variant=["v2"]), entry(B)), "linux/amd64"),
        (index_of(entry(A), entry(B)), "linux/amd64"),
    ],
)
def test_where_an_engine_may_choose_all_that_it_may_choose_from_is_named(index: bytes, platform: str) -> None:
    assert own_manifest(index, platform) is None
    assert may_run(index, platform) == (A, B)


@pytest.mark.parametrize(
    "index",
    [
        b"{",
        index_of(entry(A)).replace(b'"digest"', b'"digest": "x", "digest"'),
        index_of(entry(A), Manifests=[entry(B)]),
        index_of(entry(A) | {"Digest": B}),
        index_of(entry(A) | {"dige\u017ft": B}),  # a long s, which Go takes for an s
        index_of(entry(A) | {"digest": 7}),
        index_of(entry(A) | {"mediaType": INDEX}),
        index_of("text"),
        json.dumps({"manifests": {}}).encode(),
        index_of(*(entry(f"sha256:{number:064x}") for number in range(9))),
    ],
)
def test_an_index_that_leaves_too_much_open_is_not_read(index: bytes) -> None:
    assert own_manifest(index, "linux/amd64") is None
    with pytest.raises(Malformed):
        may_run(index, "linux/amd64")


def test_an_index_without_an_image_for_the_platform_has_nothing_that_may_run() -> None:
    assert may_run(index_of(entry(A, architecture="arm64"), UNKNOWN), "linux/amd64") == ()
