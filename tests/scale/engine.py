"""One simulated engine: the part of Docker's Engine API that a rollout of a container uses, with honest delays.

It holds what a real engine holds (images, containers, names, states) and refuses what a real one refuses. It also looks
for what must not happen: two callers that change the same application at once.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from random import Random
from typing import Any

import orjson

from gateway.docker.engine.labels import APPLICATION, DIGEST
from tests.scale.http import Answer, Connection, Request

_NEVER = "0001-01-01T00:00:00Z"
_PLATFORM = {"Os": "linux", "Architecture": "amd64"}
_NUMBERS = count(1)


@dataclass(frozen=True)
class Delays:
    """Seconds, as seen on a quiet machine; a pull takes between its two."""

    pull: tuple[float, float] = (4.0, 20.0)
    create: float = 0.015
    start: float = 0.186
    stop: float = 0.174
    #: from the start until the health check has passed
    healthy: float = 2.0


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _hash(*words: object) -> str:
    return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()


@dataclass(eq=False)
class Container:
    """A container."""

    container_id: str
    name: str
    image_id: str
    body: dict[str, Any]
    created: str
    running: bool = False
    started: str = _NEVER
    finished: str = _NEVER
    healthy_at: float = 0.0

    @property
    def labels(self) -> dict[str, str]:
        return self.body.get("Labels") or {}

    @property
    def health(self) -> str:
        return "healthy" if asyncio.get_running_loop().time() >= self.healthy_at else "starting"


@dataclass(eq=False)
class FakeEngine:
    """An engine at an address of its own."""

    number: int
    delays: Delays
    random: Random
    #: tells of what must not happen
    tell: Callable[[str], None]
    containers: dict[str, Container] = field(default_factory=dict)
    #: digest by name, as `repository@digest` or `repository:tag`
    images: dict[str, str] = field(default_factory=dict)
    listeners: list[Connection] = field(default_factory=list)
    #: applications that a call changes now
    _changing: set[str] = field(default_factory=set)

    @property
    def engine_id(self) -> str:
        return f"scale-{self.number}"

    def serving(self) -> dict[str, str]:
        """Return the digest that runs, by container name."""
        return {one.name: one.labels.get(DIGEST, "") for one in self.containers.values() if one.running}

    # -- the protocol

    def respond(self, request: Request) -> Answer | Awaitable[Answer]:
        path = request.path.removeprefix("/")
        if path.startswith("v1."):
            path = path.partition("/")[2]
        if path == "version":
            return Answer(body={"Version": "28.0.0", "ApiVersion": "1.48", **_PLATFORM})
        noun, _, rest = path.partition("/")
        answer = getattr(self, f"_{request.method.lower()}_{noun}", None)
        if answer is None:
            return Answer(404, {"message": f"page not found: {request.method} {path}"})
        found: Answer | Awaitable[Answer] = answer(rest, request)
        return found

    def _get_info(self, _rest: str, _request: Request) -> Answer:
        return Answer(
            body={
                "ID": self.engine_id,
                "Name": f"host-{self.number}",
                "ServerVersion": "28.0.0",
                "OSType": "linux",
                "Architecture": "x86_64",
                "LoggingDriver": "local",
                "SystemTime": _now(),
                "Swarm": {"LocalNodeState": "inactive", "ControlAvailable": False, "NodeID": ""},
            }
        )

    def _get_networks(self, _rest: str, request: Request) -> Answer:
        if "label" in orjson.loads(request.param("filters", "{}")):
            return Answer(body=[])  # those of the engine have none
        names = ("bridge", "host", "none")
        return Answer(
            body=[
                {
                    "Id": _hash(self.number, one),
                    "Name": one,
                    "Created": _NEVER,
                    "Driver": "null" if one == "none" else one,
                    "Scope": "local",
                    "Labels": {},
                    "Options": {},
                    "Internal": False,
                    "Containers": {},
                }
                for one in names
            ]
        )

    def _get_events(self, _rest: str, _request: Request) -> Answer:
        def follow(connection: Connection) -> None:
            self.listeners.append(connection)
            connection.on_lost = lambda: self.listeners.remove(connection)

        return Answer(stream=follow)

    def _emit(self, action: str, container: Container) -> None:
        for listener in self.listeners:
            listener.write_chunk({"Type": "container", "Action": action, "Actor": {"ID": container.container_id}})

    # -- images

    def _image(self, name: str) -> str | None:
        """Return the image's digest, by any of its names: where a digest is given, a tag says nothing."""
        before, at, digest = name.partition("@")
        place, slash, last = before.rpartition("/")
        plain = f"{place}{slash}{last.partition(':')[0]}{at}{digest}" if at else name
        return self.images.get(plain) or (name if name in self.images.values() else None)

    def _get_images(self, rest: str, _request: Request) -> Answer:
        if rest == "json":
            return Answer(body=[{"Id": one} for one in sorted(set(self.images.values()))])
        name = rest.removesuffix("/json")
        digest = self._image(name)
        if digest is None:
            return Answer(404, {"message": f"No such image: {name}"})
        names = [one for one, known in self.images.items() if known == digest]
        return Answer(
            body={
                "Id": digest,
                **_PLATFORM,
                "RepoDigests": [one for one in names if "@" in one],
                "RepoTags": [one for one in names if "@" not in one],
                "Config": {"Labels": None},
            }
        )

    def _post_images(self, rest: str, request: Request) -> Answer:
        if rest == "create":
            name = request.param("fromImage")
            tag = request.param("tag")
            return Answer(stream=lambda connection: self._pull(f"{name}@{tag}" if tag else name, connection))
        image = rest.removesuffix("/tag")
        self.images[f"{request.param('repo')}:{request.param('tag')}"] = image
        return Answer(201)

    def _pull(self, name: str, connection: Connection) -> None:
        async def pull() -> None:
            connection.write_chunk({"status": "Pulling fs layer", "id": "layer"})
            await asyncio.sleep(self.random.uniform(*self.delays.pull))
            self.images[name] = name.rpartition("@")[2]
            connection.write_chunk({"status": "Pull complete", "id": "layer"})
            connection.end_chunks()

        _keep(asyncio.ensure_future(pull()))

    def _delete_images(self, rest: str, _request: Request) -> Answer:
        digest = self.images.get(rest)
        if any(one.image_id == digest for one in self.containers.values()):
            return Answer(409, {"message": "conflict: unable to delete, image is being used"})
        return Answer(body=[]) if self.images.pop(rest, None) else Answer(404, {"message": "No such image"})

    # -- containers

    def _find(self, named: str) -> Container | None:
        if found := self.containers.get(named):
            return found
        return next((one for one in self.containers.values() if one.name == named), None)

    def _get_containers(self, rest: str, request: Request) -> Answer:
        if rest == "json":
            filters = orjson.loads(request.param("filters", "{}"))
            wanted = [label.partition("=")[::2] for label in filters.get("label", ())]
            shown = [
                one
                for one in self.containers.values()
                if (one.running or request.param("all")) and all(one.labels.get(k) == v for k, v in wanted)
            ]
            return Answer(body=[self._listed(one) for one in shown])
        named, _, what = rest.partition("/")
        found = self._find(named)
        if found is None:
            return Answer(404, {"message": f"No such container: {named}"})
        return Answer(body=self._inspected(found)) if what == "json" else Answer(200, "")

    def _listed(self, one: Container) -> dict[str, Any]:
        return {
            "Id": one.container_id,
            "Names": [f"/{one.name}"],
            "ImageID": one.image_id,
            "Labels": one.labels,
            "State": "running" if one.running else "exited",
            "Status": f"Up 1 second ({one.health})" if one.running else "Exited (0)",
            "Ports": [],
        }

    def _inspected(self, one: Container) -> dict[str, Any]:
        network = {"NetworkID": _hash(self.number, "bridge"), "Aliases": None, "IPAddress": "", "Gateway": ""}
        return {
            "Id": one.container_id,
            "Name": f"/{one.name}",
            "Created": one.created,
            "Image": one.image_id,
            "Config": {**{key: value for key, value in one.body.items() if key != "HostConfig"}, "Labels": one.labels},
            "State": {
                "Running": one.running,
                "Restarting": False,
                "Paused": False,
                "ExitCode": 0,
                "OOMKilled": False,
                "Error": "",
                "StartedAt": one.started,
                "FinishedAt": one.finished,
                "Health": {"Status": one.health, "Log": []},
            },
            "RestartCount": 0,
            "HostConfig": {"NetworkMode": "bridge", **one.body["HostConfig"]},
            "NetworkSettings": {"Networks": {"bridge": network}, "Ports": {}},
            "Mounts": [],
        }

    async def _post_containers(self, rest: str, request: Request) -> Answer:
        if rest == "create":
            return await self._create(request)
        named, _, action = rest.partition("/")
        found = self._find(named)
        if found is None:
            return Answer(404, {"message": f"No such container: {named}"})
        return await self._alone(found.labels, lambda: self._act(found, action, request))

    async def _alone(self, labels: dict[str, str], act: Callable[[], Awaitable[Answer]]) -> Answer:
        """Change something of an application, and tell of another caller who does so at the same time."""
        application = labels.get(APPLICATION, "")
        if application in self._changing:
            self.tell(f"two callers change {application} on engine {self.number} at once")
        self._changing.add(application)
        try:
            return await act()
        finally:
            self._changing.discard(application)

    async def _create(self, request: Request) -> Answer:
        body, name = request.json(), request.param("name")
        digest = self._image(body["Image"])
        if digest is None:
            return Answer(404, {"message": f"No such image: {body['Image']}"})

        async def create() -> Answer:
            await asyncio.sleep(self.delays.create)
            if self._find(name):
                return Answer(409, {"message": f'Conflict. The container name "/{name}" is already in use'})
            made = Container(_hash(self.number, name, next(_NUMBERS)), name, digest, body, _now())
            body["HostConfig"].setdefault("RestartPolicy", {"Name": "no", "MaximumRetryCount": 0})
            self.containers[made.container_id] = made
            self._emit("create", made)
            return Answer(201, {"Id": made.container_id, "Warnings": []})

        return await self._alone(body.get("Labels") or {}, create)

    async def _act(self, one: Container, action: str, request: Request) -> Answer:
        match action:
            case "start" if not one.running:
                await asyncio.sleep(self.delays.start)
                one.running, one.started = True, _now()
                one.healthy_at = asyncio.get_running_loop().time() + self.delays.healthy
            case "stop" if one.running:
                await asyncio.sleep(self.delays.stop)
                one.running, one.finished = False, _now()
                self._emit("die", one)
            case "rename":
                if self._find(request.param("name")) not in {None, one}:
                    return Answer(409, {"message": f'Conflict. The name "/{request.param("name")}" is already in use'})
                one.name = request.param("name")
            case "update":
                one.body["HostConfig"].update(request.json())
                return Answer(body={"Warnings": None})
            case "start" | "stop":
                return Answer(304)
            case _:
                return Answer(404, {"message": f"page not found: {action}"})
        self._emit(action, one)
        return Answer(204)

    def _delete_containers(self, rest: str, _request: Request) -> Answer:
        if (found := self._find(rest)) is None:
            return Answer(404, {"message": f"No such container: {rest}"})
        del self.containers[found.container_id]
        self._emit("destroy", found)
        return Answer(204)


_KEPT: set[asyncio.Future[None]] = set()


def _keep(task: "asyncio.Future[None]") -> None:
    """Keep a reference: the loop has a weak one only."""
    _KEPT.add(task)
    task.add_done_callback(_KEPT.discard)
