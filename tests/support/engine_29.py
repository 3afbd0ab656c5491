"""Docker Engine 29 as a client sees it, made of the engine that is here.

A strict engine stands before a real one. It speaks API 1.44 to 1.52 and refuses older ones in the words of Engine 29,
refuses what the published description does not have (`engine_29_description`), and answers as Engine 29 does with its
containerd image store: an image's id is the digest that it was pulled by, and removed fields are not there. What runs
is real, so whole rollouts can be tested. It does not show how Engine 29 itself runs containers.
"""

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import orjson
from aiohttp import web

from tests.support import engine_29_description as description

OLDEST, NEWEST = (1, 44), (1, 52)
_REAL = "v1.41"
_VERSIONED = re.compile(r"/v(\d+)\.(\d+)/(.*)")
_STREAMS = re.compile(r"events|images/create|.+/logs|containers/[^/]+/archive")
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_HOP = frozenset({"connection", "content-length", "transfer-encoding", "host", "api-version", "server"})
_UNTIL_1_51 = frozenset({
    "Bridge", "HairpinMode", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen", "SecondaryIPAddresses",
    "SecondaryIPv6Addresses", "EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress",
    "IPPrefixLen", "IPv6Gateway", "MacAddress",
})  # fmt: skip
_NO_IMAGE_CONFIG = frozenset({
    "Hostname", "Domainname", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce", "Image",
    "ArgsEscaped",
})  # fmt: skip

Version: TypeAlias = tuple[int, ...]
Found: TypeAlias = dict[str, Any]


def _without(found: Mapping[str, Any], *names: str) -> Found:
    return {name: value for name, value in found.items() if name not in names}


def _set(found: Mapping[str, Any]) -> Found:
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}


class _Ids:
    """What images are called: by the engine below, and by a containerd image store."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._real: dict[str, str] = {}

    def learn(self, images: list[Found]) -> None:
        for image in images:
            digests = sorted(one.partition("@")[2] for one in image.get("RepoDigests") or () if "<none>" not in one)
            if digests and image["Id"] not in self._shown:
                self._shown[image["Id"]] = digests[0]
                self._real[digests[0]] = image["Id"]

    def shown(self, real: str) -> str:
        return self._shown.get(real, real)

    def real(self, text: str) -> str:
        """Return the words of a path with the engine's own ids; an id that a containerd store has not is unknown."""
        if text in self._shown and self._shown[text] != text:
            return f"sha256:{'0' * 64}"
        return self._real.get(text, text)


class StrictEngine:
    """Engine 29 before the engine at `socket`. `refused` has what was asked for and is not in the description."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._ids = _Ids()
        self._client: aiohttp.ClientSession | None = None
        self.refused: list[str] = []
        #: the versions that were asked for; none where the path has none
        self.spoken: set[Version | None] = set()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[str]:
        """Yield its address, a socket at the path."""
        connector = aiohttp.UnixConnector(self._socket, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as client:
            self._client = client
            app = web.Application(client_max_size=2**30)
            app.router.add_route("*", "/{path:.*}", self._respond)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
            await runner.setup()
            try:
                await web.UnixSite(runner, str(path)).start()
                yield f"unix://{path}"
            finally:
                await runner.cleanup()

    # -- the request

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        versioned = _VERSIONED.fullmatch(request.path)
        version = (int(versioned[1]), int(versioned[2])) if versioned else NEWEST
        path = versioned[3] if versioned else request.path.lstrip("/")
        self.spoken.add(version if versioned else None)
        shown, least, most = (".".join(map(str, one)) for one in (version, OLDEST, NEWEST))
        if version < OLDEST:
            return _error(400, f"client version {shown} is too old. Minimum supported API version is {least}, "
                               "please upgrade your client to a newer version")  # fmt: skip
        if version > NEWEST:
            return _error(400, f"client version {shown} is too new. Maximum supported API version is {most}")
        sent = await request.read()
        is_json = bool(sent) and "tar" not in request.headers.get("Content-Type", "")
        body = orjson.loads(sent) if is_json else None
        operation = description.find(request.method, path)
        if operation is None:
            return self._refuse(404, "page not found", f"{request.method} {path}")
        if wrong := description.objections(operation, request.query, body, version):
            return self._refuse(400, f"the description of API {shown} lacks {', '.join(wrong)}", path)
        return await self._ask(request, version, path, orjson.dumps(self._made(path, body or {})) if is_json else sent)

    def _refuse(self, status: int, message: str, path: str) -> web.Response:
        self.refused.append(f"{path}: {message}")
        return _error(status, message)

    def _made(self, path: str, body: Found) -> Found:
        """Return the body as the engine below knows it."""
        if path != "containers/create":
            return body
        made = dict(body)
        if "Image" in made:
            made["Image"] = self._ids.real(made["Image"])
        for endpoint in ((made.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}).values():
            if address := (endpoint or {}).pop("MacAddress", ""):
                made["MacAddress"] = address
        return made

    async def _ask(self, request: web.Request, version: Version, path: str, sent: bytes) -> web.StreamResponse:
        if path.startswith("images/") and (named := _ID.search(path)) and path[len("images/") :].startswith(named[0]):
            path = path.replace(named[0], self._ids.real(named[0]))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        assert self._client is not None
        address = f"http://engine/{_REAL}/{path}"
        async with self._client.request(
            request.method, address, params=request.query, data=sent or None, headers=headers
        ) as answer:
            if _STREAMS.fullmatch(path) and answer.ok:
                return await self._relay(request, version, path, answer)
            got = await answer.read()
            if answer.content_type == "application/json" and got.strip() and answer.ok:
                return _json(answer.status, await self._answer(version, path, orjson.loads(got)))
            return web.Response(status=answer.status, body=got or None, content_type=answer.content_type)

    # -- the answer

    async def _relay(
        self, request: web.Request, version: Version, path: str, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        kind = answer.headers.get("Content-Type", "application/octet-stream")  # the engine below names none at times
        if path.endswith("/logs") and kind == "application/octet-stream":
            kind = "application/vnd.docker.multiplexed-stream"
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": kind})
        await response.prepare(request)
        if path == "events":
            async for line in answer.content:
                event = orjson.loads(line)
                kept = _without(event, "status", "id", "from") if version >= (1, 52) else event
                await response.write(orjson.dumps(kept) + b"\n")
        elif path == "images/create":
            async for line in answer.content:
                await response.write(orjson.dumps(_without(orjson.loads(line), "error", "progress")) + b"\n")
        else:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        return response

    async def _answer(self, version: Version, path: str, found: Any) -> Any:
        if path == "version":
            return {**found, "Version": "29.0.0", "ApiVersion": "1.52", "MinAPIVersion": "1.44"}
        if path == "info":
            store = ["driver-type", "io.containerd.snapshotter.v1"]
            gone = ("KernelMemory", "KernelMemoryTCP", "BridgeNfIptables", "BridgeNfIp6tables")
            return {**_without(found, *gone), "ServerVersion": "29.0.0", "Driver": "overlayfs", "DriverStatus": [store]}
        if rewritten := next((act for pattern, act in _ANSWERS if pattern.fullmatch(path)), None):
            await self._learn()
            return rewritten(self, version, found)
        return found

    async def _learn(self) -> None:
        assert self._client is not None
        async with self._client.get(f"http://engine/{_REAL}/images/json", params={"all": "1"}) as answer:
            self._ids.learn(await answer.json())

    def _image(self, version: Version, found: Found) -> Found:
        config = _without(found.get("Config") or {}, *(_NO_IMAGE_CONFIG if version >= (1, 50) else ()))
        shown = _without(found, "VirtualSize", "Container", "ContainerConfig", "GraphDriver", "Parent", "DockerVersion")
        return {
            **(_without(shown, "Comment", "Author") if version >= (1, 52) else shown),
            "Id": self._ids.shown(found["Id"]),
            "Config": _set(config) if version >= (1, 52) else config,
            "Descriptor": {"digest": self._ids.shown(found["Id"])},
        }

    def _images(self, _version: Version, found: list[Found]) -> list[Found]:
        return [{**_without(one, "VirtualSize"), "Id": self._ids.shown(one["Id"]), "Containers": 0} for one in found]

    def _containers(self, _version: Version, found: list[Found]) -> list[Found]:
        return [{**one, "ImageID": self._ids.shown(one["ImageID"])} for one in found]

    def _container(self, version: Version, found: Found) -> Found:
        short, settings, config = found["Id"][:12], found["NetworkSettings"], found["Config"]
        networks = {name: _endpoint(version, one, short) for name, one in (settings["Networks"] or {}).items()}
        removed = ("KernelMemory", "KernelMemoryTCP") if version >= (1, 52) else ("KernelMemory",)
        hidden = ("MacAddress", *(() if config.get("OnBuild") else ("OnBuild",))) if version >= (1, 52) else ()
        return {
            **_without(found, *(("GraphDriver",) if version >= (1, 52) else ())),
            "Image": self._ids.shown(found["Image"]),
            "Config": _without(config, *hidden),
            "HostConfig": _without(found["HostConfig"], *removed),
            "NetworkSettings": {
                **_without(settings, *(_UNTIL_1_51 if version >= (1, 52) else ())),
                "Networks": networks,
            },
        }


def _endpoint(version: Version, found: Found, short: str) -> Found:
    aliases = found.get("Aliases")
    if version >= (1, 45):
        aliases = [one for one in aliases or () if one != short] or None
    return {**found, "Aliases": aliases, "DNSNames": [*(aliases or ()), short], "GwPriority": 0}


def _error(status: int, message: str) -> web.Response:
    return _json(status, {"message": message})


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


_ANSWERS: tuple[tuple[re.Pattern[str], Callable[[StrictEngine, Version, Any], Any]], ...] = (
    (re.compile(r"images/json"), StrictEngine._images),  # noqa: SLF001 - its own methods
    (re.compile(r"images/.+/json"), StrictEngine._image),  # noqa: SLF001
    (re.compile(r"containers/json"), StrictEngine._containers),  # noqa: SLF001
    (re.compile(r"containers/[^/]+/json"), StrictEngine._container),  # noqa: SLF001
)


@asynccontextmanager
async def engine_29(socket: Path) -> AsyncIterator[tuple[str, StrictEngine]]:
    """Yield the address of Engine 29 before the engine at the socket, and what it has refused."""
    with tempfile.TemporaryDirectory(prefix="engine-29-") as directory:
        engine = StrictEngine(str(socket))
        async with engine.listening(Path(directory) / "docker.sock") as address:
            yield address, engine
