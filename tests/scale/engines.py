"""The process of all simulated engines, and of the registry that they pull from.

Engine N answers at `address_of(N)`. One listener serves them all, and tells them apart by the address it was called at.
At 127.0.0.1 it is the registry, and tells the test what the engines run.
"""

import asyncio
import hashlib
import sys
from collections.abc import Awaitable
from random import Random

import uvloop

from tests.scale.engine import Delays, FakeEngine
from tests.scale.http import Answer, Connection, Request

_OWN = "127.0.0.1"
_BACKLOG = 4096


def address_of(number: int) -> str:
    """Return the loopback address of an engine: numbers begin with 0."""
    return f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


def digest_of(repository: str, version: int) -> str:
    return "sha256:" + hashlib.sha256(f"{repository} {version}".encode()).hexdigest()


class Fleet:
    """All engines, and the registry."""

    def __init__(self, engines: int, delays: Delays) -> None:
        self.violations: list[str] = []
        random = Random(7)
        self.engines = {
            address_of(number): FakeEngine(number, delays, random, self.violations.append) for number in range(engines)
        }
        #: the version that each repository's tag names
        self.versions: dict[str, int] = {}
        self.requests = 0

    def connection(self) -> Connection:
        return Connection(self._respond)

    def _respond(self, request: Request) -> Answer | Awaitable[Answer]:
        self.requests += 1
        if request.local == _OWN:
            return self._own(request)
        engine = self.engines.get(request.local)
        return engine.respond(request) if engine else Answer(404, {"message": "no such engine"})

    def _own(self, request: Request) -> Answer:
        match request.path.split("/")[1:]:
            case ["versions"]:
                self.versions.update(request.json())
                return Answer(204)
            case ["state"]:
                return Answer(
                    body={
                        "serving": {one.engine_id: found for one in self.engines.values() if (found := one.serving())},
                        "violations": self.violations,
                        "requests": self.requests,
                    }
                )
            case ["v2", repository, "manifests", _]:
                return self._manifest(request, repository)
            case _:
                pass
        return Answer(404, {"errors": []})

    def _manifest(self, request: Request, repository: str) -> Answer:
        version = self.versions.get(repository)
        if version is None:
            return Answer(404, None, (("Content-Length", "0"),))
        headers = (
            ("Docker-Content-Digest", digest_of(repository, version)),
            ("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": headers[1][1],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "0" * 64},
            "layers": [],
        }
        if request.method == "HEAD":
            return Answer(200, None, (*headers, ("Content-Length", "0")))
        return Answer(200, manifest, headers)


async def main(port: int, engines: int, pull: float) -> None:
    fleet = Fleet(engines, Delays(pull=(pull / 4, pull)))
    server = await asyncio.get_running_loop().create_server(fleet.connection, "0.0.0.0", port, backlog=_BACKLOG)  # noqa: S104 - each connection from elsewhere is dropped
    print("ready", flush=True)  # noqa: T201 - for who started it
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
