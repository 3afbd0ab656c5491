"""Tiny real images, made without an engine and pushed over the registry's own API.

One layer holds a static busybox, the other what the image does. See
https://github.com/opencontainers/image-spec and https://github.com/opencontainers/distribution-spec
"""

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from gateway.model.errors import Unavailable
from gateway.model.reference import Digest, Reference

_BUSYBOX = Path("/bin/busybox")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# As process 1 busybox would ignore SIGTERM, so a shell waits for it and passes it on.
_SERVE = """#!/bin/busybox sh
trap 'kill $!; exit 0' TERM
/bin/busybox httpd -f -p 8080 -h /www &
wait $!
"""


_FINISH = _SERVE.replace("kill $!;", "kill $!; /bin/busybox sleep 1;")


class Behaviour(Enum):
    """What a container of the image does: the script it runs."""

    SERVES = _SERVE
    #: once asked to stop, it takes no more requests, and ends those it has
    FINISHES = _FINISH
    EXITS = "#!/bin/busybox sh\necho 'boom: cannot reach the database' >&2\nexit 3\n"
    EXITS_LATER = "#!/bin/busybox sh\n/bin/busybox sleep 0.15\nexit 4\n"
    IGNORES_SIGTERM = "#!/bin/busybox sh\ntrap '' TERM\n/bin/busybox httpd -f -p 8080 -h /www\n"


@dataclass(frozen=True, slots=True)
class Image:
    """An image to make; each `version` is another digest, and what it answers on port 8080."""

    version: str
    behaviour: Behaviour = Behaviour.SERVES
    #: a command whose exit code says whether the container is healthy
    health: str | None = None
    #: what else its maker chose for its containers, as in https://github.com/opencontainers/image-spec
    config: Mapping[str, Any] = field(default_factory=dict)
    #: what else is in it, by path, executable; instead of its script too
    files: Mapping[str, bytes] = field(default_factory=dict)
    #: bytes of its layer that nothing makes smaller
    ballast: int = 0
    architecture: str = field(default_factory=lambda: _ARCHITECTURES.get(platform.machine(), platform.machine()))


def _layer(files: dict[str, tuple[bytes, int]]) -> tuple[bytes, str]:
    """Return a layer, compressed, and the digest of its tar; the same files make the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0), digest_of(buffer.getvalue())


@cache
def _base() -> tuple[bytes, str]:
    if not _BUSYBOX.exists():
        raise Unavailable("no static busybox: apt-get install busybox-static")
    return _layer({"bin/busybox": (_BUSYBOX.read_bytes(), 0o755)})


def digest_of(content: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def _parts(image: Image) -> tuple[bytes, list[bytes]]:
    """Return the manifest and the blobs it names."""
    base, base_id = _base()
    own, own_id = _layer(
        {
            "entry": (image.behaviour.value.encode(), 0o755),
            "www/index.html": (image.version.encode(), 0o644),
            **{path: (content, 0o755) for path, content in image.files.items()},
            **({"ballast": (os.urandom(image.ballast), 0o644)} if image.ballast else {}),
        }
    )
    run: dict[str, Any] = {"Entrypoint": ["/entry"], "Env": ["PATH=/bin"], "ExposedPorts": {"8080/tcp": {}}}
    if image.health is not None:
        every = {"Interval": 10**9, "Timeout": 10**9, "Retries": 1}
        run["Healthcheck"] = {"Test": ["CMD", "/bin/busybox", "sh", "-c", image.health], **every}
    run |= image.config
    config = json.dumps(
        {
            "architecture": image.architecture,
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [base_id, own_id]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [_descriptor(_LAYER, base), _descriptor(_LAYER, own)],
    }
    return json.dumps(manifest).encode(), [base, own, config]


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


#: the repository to which each blob was uploaded first, by registry and digest
_UPLOADED: dict[tuple[str, Digest], str] = {}


class Pusher:
    """Pushes images to the registry at `base`, as `http://127.0.0.1:5000`, with a login if it needs one."""

    def __init__(self, session: aiohttp.ClientSession, base: str, login: tuple[str, str] | None = None) -> None:
        self._session = session
        self._base = base
        self._headers = {} if login is None else {"Authorization": aiohttp.encode_basic_auth(*login)}

    async def push(self, image: Image, reference: Reference) -> Digest:
        """Push the image under its tag and return its digest."""
        manifest, blobs = _parts(image)
        for blob in blobs:
            await self.push_blob(reference.repository.path, blob)
        return await self.put_manifest(reference, manifest, _MANIFEST)

    async def put_manifest(self, reference: Reference, manifest: bytes, media_type: str) -> Digest:
        url = f"{self._base}/v2/{reference.repository.path}/manifests/{reference.tag}"
        headers = {**self._headers, "Content-Type": media_type}
        async with self._session.put(url, data=manifest, headers=headers) as answer:
            answer.raise_for_status()
        return digest_of(manifest)

    async def push_blob(self, path: str, blob: bytes) -> None:
        digest = digest_of(blob)
        blobs = f"{self._base}/v2/{path}/blobs"
        async with self._session.head(f"{blobs}/{digest}", headers=self._headers) as answer:
            if answer.ok:
                return
        # A registry that has the blob in another repository mounts it from there: nothing is uploaded.
        other = _UPLOADED.setdefault((self._base, digest), path)
        mount = {"mount": digest, "from": other} if other != path else {}
        async with self._session.post(f"{blobs}/uploads/", params=mount, headers=self._headers) as answer:
            answer.raise_for_status()
            if answer.status == HTTPStatus.CREATED:
                return
            location = answer.headers["Location"]
        join = "&" if "?" in location else "?"
        headers = {**self._headers, "Content-Type": "application/octet-stream"}
        async with self._session.put(f"{location}{join}digest={digest}", data=blob, headers=headers) as answer:
            answer.raise_for_status()


async def push(image: Image, name: str, *, base: str | None = None, login: tuple[str, str] | None = None) -> Digest:
    """Push one image, `127.0.0.1:5000/app:v2` say, and return its digest; `base` where the name is not its address."""
    reference = Reference.parse(name)
    async with aiohttp.ClientSession() as session:
        return await Pusher(session, base or f"http://{reference.repository.domain}", login).push(image, reference)
