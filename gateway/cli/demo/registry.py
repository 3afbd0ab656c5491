"""A private registry, CNCF Distribution, that tells of pushes as its operator configures it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.cli.demo.process import WITH_US
from gateway.model.errors import Unavailable

_READY_DEADLINE = 60.0  # seconds
_LOOK_AGAIN = 0.05  # seconds
# As docs/distribution.md says: without a media type, the registry does not look at actions either.
_NO_PUSHES = {"actions": ["pull"], "mediatypes": ["application/octet-stream"]}


@dataclass(frozen=True, slots=True)
class NotificationEndpoint:
    """Where the registry sends its notifications, and with which headers.

    It also sends pulls and blobs, unless it is to send `only_pushes`.
    """

    url: str
    headers: dict[str, list[str]] = field(default_factory=dict)
    only_pushes: bool = False


def write_config(directory: Path, settings: Mapping[str, Any], endpoints: Sequence[NotificationEndpoint]) -> Path:
    """Write the file that a registry in this directory is started with, and return it."""
    notified = [
        {"name": f"gateway{number}", "url": endpoint.url, "headers": endpoint.headers,
         "timeout": "1s", "threshold": 3, "backoff": "500ms", "ignore": _NO_PUSHES if endpoint.only_pushes else {}}
        for number, endpoint in enumerate(endpoints)
    ]  # fmt: skip
    config = directory / "config.yml"
    # JSON is YAML.
    config.write_text(json.dumps({**settings, "notifications": {"endpoints": notified}}))
    return config


def settings_of(images: Path, address: str) -> dict[str, Any]:
    """Return the settings of a registry that keeps its images in a directory, listens there and lets everybody in."""
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(images)}, "delete": {"enabled": True}},
        "http": {"addr": address},
    }


def require_program() -> str:
    """Return where the program is. Raises Unavailable where it is not installed."""
    if (found := shutil.which("docker-registry")) is None:
        raise Unavailable("no registry: apt-get install docker-registry")
    return found


class PrivateRegistry:
    """A docker-registry of our own. `address` is what images on it are named by, as `127.0.0.1:5000`."""

    def __init__(self, directory: Path, address: str, settings: dict[str, Any], prefix: Sequence[str] = ()) -> None:
        self._directory = directory
        self._prefix = prefix
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self.address = address
        self.endpoints: Sequence[NotificationEndpoint] = ()

    async def start(self) -> None:
        """Start it; it sends its notifications to `endpoints`."""
        config = write_config(self._directory, self._settings, self.endpoints)
        with (self._directory / "registry.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *WITH_US,
                *self._prefix,
                "docker-registry",
                "serve",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_READY_DEADLINE):
            await self._listens()

    async def _listens(self) -> None:
        host, _, port = self._settings["http"]["addr"].rpartition(":")
        while True:
            if self._process is None or self._process.returncode is not None:
                raise Unavailable(f"docker-registry ended: {(self._directory / 'registry.log').read_text()[-2000:]}")
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                writer.close()
                return

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


@asynccontextmanager
async def private_registry(
    directory: Path,
    port: int,
    *,
    host: str = "127.0.0.1",
    endpoints: Sequence[NotificationEndpoint] = (),
    htpasswd: Path | None = None,
    auth: Mapping[str, Any] | None = None,
    tls: tuple[Path, Path] | None = None,
    images: Path | None = None,
    prefix: Sequence[str] = (),
) -> AsyncIterator[PrivateRegistry]:
    """Run a registry that keeps its images in the directory, until the block is left.

    `htpasswd` is a file of logins, `auth` another proof of them, in the registry's own words; `tls` a certificate and
    its key; `images` where they are kept, if not in the directory; `prefix` words to start it under.
    """
    require_program()
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    address = f"{host}:{port}"
    settings = settings_of((images or directory) / "images", address)
    if tls is not None:
        settings["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    if auth is not None:
        settings["auth"] = auth
    if htpasswd is not None:
        settings["auth"] = {"htpasswd": {"realm": "registry", "path": str(htpasswd)}}
    registry = PrivateRegistry(directory, address, settings, prefix)
    registry.endpoints = endpoints
    try:
        await registry.start()
        yield registry
    finally:
        await registry.stop()
