"""Images without an engine: their files are put into a registry as one layer, or several."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

from gateway.model.reference import Digest

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_TITLE = "org.opencontainers.image.title"


def alpine(**packages: str) -> dict[str, bytes]:
    """Return the files by which a scanner recognises Alpine 3.19 with these packages, by version."""
    installed = "".join(f"P:{name}\nV:{version}\nA:x86_64\no:{name}\n\n" for name, version in packages.items())
    return {
        "etc/alpine-release": b"3.19.1\n",
        "etc/os-release": b"ID=alpine\nVERSION_ID=3.19.1\n",
        "lib/apk/db/installed": installed.encode(),
    }


def archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar with these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


async def push_files(
    registry: str, path: str, files: Mapping[str, bytes], tag: str = "latest", authorization: str = ""
) -> Digest:
    """Push an image with these files; return its digest."""
    layer = archive(files)
    return await push_layer(registry, path, layer, tag, authorization)


async def push_layer(registry: str, path: str, layer: bytes, tag: str = "latest", authorization: str = "") -> Digest:
    """Push an image of one layer, a tar."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs = {_CONFIG: json.dumps(config).encode(), _LAYER: gzip.compress(layer)}
    return await push_manifest(registry, path, tag, blobs, _MANIFEST, authorization)


async def push_manifest(
    registry: str,
    path: str,
    tag: str,
    blobs: Mapping[str, bytes],
    media_type: str,
    authorization: str = "",
) -> Digest:
    """Push a manifest of these blobs, by media type; the first one is its configuration. Return its digest."""
    base = URL(f"http://{registry}/v2/{path}/")
    descriptors = [
        # Some artifacts need a name for each of their files.
        {"mediaType": kind, "digest": _digest(blob), "size": len(blob), "annotations": {_TITLE: "db.tar.gz"}}
        for kind, blob in blobs.items()
    ]
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": descriptors[0], "layers": descriptors[1:]}
    headers = {"Authorization": authorization} if authorization else {}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
        for blob in blobs.values():
            async with session.post(base / "blobs/uploads/") as begun:
                where = URL(begun.headers["Location"]).update_query(digest=_digest(blob))
            async with session.put(where, data=blob):
                pass
        body = json.dumps(manifest).encode()
        async with session.put(base / f"manifests/{tag}", data=body, headers={"Content-Type": media_type}):
            pass
    return Digest(_digest(body))


async def push_index(registry: str, path: str, images: Sequence[tuple[str, Digest]], tag: str) -> Digest:
    """Push an index of these images; each with ARCHITECTURE/VARIANT, or an empty text for a nested index."""
    base = URL(f"http://{registry}/v2/{path}/manifests/")
    entries = []
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        for platform, digest in images:
            async with session.get(base / digest, headers={"Accept": f"{_MANIFEST}, {_INDEX}"}) as answer:
                size = len(await answer.read())
            architecture, _, variant = platform.partition("/")
            named = {"os": "linux", "architecture": architecture or "amd64"} | ({"variant": variant} if variant else {})
            media_type = _MANIFEST if platform else _INDEX
            entries.append({"mediaType": media_type, "digest": digest, "size": size, "platform": named})
        body = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}).encode()
        async with session.put(base / tag, data=body, headers={"Content-Type": _INDEX}):
            pass
    return Digest(_digest(body))


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
