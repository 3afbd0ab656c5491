"""Client for one Docker Engine: https://docs.docker.com/reference/api/engine/

Every call has a deadline. Every error is raised as Failed or Postponed.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import aiodocker
import aiohttp
import orjson
from aiodocker.exceptions import DockerError

from gateway.docker.engine import api_version
from gateway.docker.engine.errors import classify
from gateway.docker.engine.shield import run_to_completion
from gateway.docker.engine.transport import create_connector, load_transport
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.servers import Access

CALL_DEADLINE = 60.0  # seconds; stop and pull have their own
_KEPT_CONNECTION = 15.0  # seconds
_CONNECT_DEADLINE = 5.0  # seconds
_IDENTIFY_DEADLINE = 10.0  # seconds

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Identity of an engine. `engine_id` is the daemon's own id, `platform` has the form `linux/amd64`.

    Cloned machines can share an id. `run` distinguishes them while the daemon runs. Published ports are reached at
    `address`. `node_id` is the engine's id in a Swarm, or "".
    """

    engine_id: str
    name: str
    version: str
    platform: str
    run: str = ""
    address: str = "127.0.0.1"
    swarm_manager: bool = False
    node_id: str = ""
    #: a Swarm node that does not know yet whether it is a manager, or a locked one
    swarm_starting: bool = False

    @property
    def daemon(self) -> str:
        """A key that is equal for two addresses of one daemon, and different for two daemons.

        A daemon without a default bridge keeps its networks when it restarts. The host name distinguishes clones then.
        """
        return f"{self.engine_id}/{self.name}/{self.node_id}/{self.run}"


class Engine(aiodocker.Docker):
    """aiodocker's client. It closes each response, so that a cancelled pull ends in the daemon too."""

    #: called before each request that changes something; raises when this is no longer allowed
    _allowed: Callable[[], Awaitable[None]] | None = None
    _manages = False
    _podman = False

    def __init__(self, access: Access, keep: float) -> None:
        connector, url = create_connector(access, keep)
        super().__init__(url=url, connector=connector, timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_DEADLINE))
        self._connection_info = access.host  # appears in error messages
        self.address = access.address.published_host  # of published ports
        self.image_labels: dict[str, Mapping[str, str]] = {}  # by image id, cache of `images`
        self.run = ""  # from the last identify()
        self.unbounded_logs: dict[str, bool] = {}  # by run, cache of `log_driver`
        #: the client that this one is a copy of: caches are kept by this one, so that all copies share them
        self.original = self

    def fenced(self, allowed: Callable[[], Awaitable[None]]) -> Self:
        """Return a client over the same connections that calls `allowed` before each request that changes something."""
        one = copy(self)
        one._allowed = allowed  # noqa: SLF001 - same class
        return one

    def managing(self) -> Self:
        """Return a client for a known Swarm manager: "not a manager" is then a transient error."""
        one = copy(self)
        one._manages = True  # noqa: SLF001 - same class
        return one

    async def speaks(self) -> api_version.Version:
        """Return the version of the API that requests are made in. Raises Failed and Postponed."""
        with translate_errors(waiting_for="GET version"):
            async with asyncio.timeout(_IDENTIFY_DEADLINE):
                await self._check_version()
        return api_version.parse(self.api_version)

    async def is_podman(self) -> bool:
        """Return whether Podman answers in Docker's place. Raises Failed and Postponed."""
        await self.speaks()
        return self._podman

    async def _check_version(self) -> None:
        if self.api_version == "auto":
            told = await self._query_json("version", versioned_api=False)
            self._podman = api_version.is_podman(told)
            self.api_version = "v" + api_version.choose(told)

    async def _do_query(self, *args: Any, **kwargs: Any) -> aiohttp.ClientResponse:
        try:
            return await super()._do_query(*args, **kwargs)
        except DockerError as error:
            if not api_version.is_refused(error.status, str(error.message)):
                raise
        self.api_version = "auto"  # the engine was updated since it was asked
        return await super()._do_query(*args, **kwargs)

    @asynccontextmanager
    async def _query(self, *args: Any, **kwargs: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        async with super()._query(*args, **kwargs) as response:
            try:
                yield response
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        deadline: float = CALL_DEADLINE,
    ) -> Any:
        """Send a request, with a JSON body or bytes, and return the JSON of the response. Raises Failed and Postponed.

        The engine completes a request whether or not the client waits. Therefore a request that changes something is
        completed even when this task is cancelled, and a rollback starts from its result.
        """
        if method != "GET" and self._allowed is not None:
            await self._allowed()
        sent = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        made = self._made(method, path, deadline, params=dict(params or {}), data=sent, headers=headers)
        try:
            return await (made if method == "GET" else run_to_completion(made))
        except Failed as error:
            if not (self._manages and error.reason.code is Code.NO_SWARM):
                raise
            raise Postponed(Code.ENGINE_BUSY, f"the engine is not a Swarm manager at the moment: {error}") from error

    async def _made(self, method: str, path: str, deadline: float, **given: Any) -> Any:
        with translate_errors(waiting_for=f"{method} {path}"):
            async with (
                asyncio.timeout(deadline),
                self._query(path, method, **given) as response,
            ):
                answer = await response.read()
                return orjson.loads(answer) if answer.strip() else None

    async def identify(self, *, same_run: bool = False) -> EngineIdentity:
        """Return the identity of the daemon. `same_run`: the daemon has certainly not restarted since the last call."""
        info = await self.call("GET", "info", deadline=_IDENTIFY_DEADLINE)
        swarm = info.get("Swarm") or {}
        podman = await self.is_podman()
        if podman:
            self.run = _PODMAN  # Podman's containers do not end with the process that answers
        elif not same_run or not self.run:
            # The daemon creates its bridge at each start, unless it has none.
            self.run = ",".join(sorted(network["Id"] for network in await self.built_in_networks()))
        return EngineIdentity(
            # Podman answers with another id each time. Its storage is one on a host, or one of each user.
            engine_id=f"{_PODMAN}:{info['Name']}:{info['DockerRootDir']}" if podman else info["ID"],
            name=info["Name"],
            version=info["ServerVersion"],
            platform=platform_name(info["OSType"], info["Architecture"]),
            run=self.run,
            address=self.address,
            swarm_manager=bool(swarm.get("ControlAvailable")) and swarm.get("LocalNodeState") == "active",
            node_id=swarm.get("NodeID", ""),
            swarm_starting=await self._starts(swarm),
        )

    async def built_in_networks(self) -> list[dict[str, Any]]:
        """Return the networks that a daemon creates when it starts. Podman creates none."""
        if await self.is_podman():
            return []
        params = {"filters": '{"type":["builtin"]}'}
        found: list[dict[str, Any]] = await self.call("GET", "networks", params=params, deadline=_IDENTIFY_DEADLINE)
        return found

    async def _starts(self, swarm: Mapping[str, Any]) -> bool:
        """Return whether the engine is about to become a Swarm manager."""
        if swarm.get("ControlAvailable") or swarm.get("LocalNodeState") != "active":
            return swarm.get("LocalNodeState") in _STARTING
        try:
            await self.call("GET", "swarm", deadline=_IDENTIFY_DEADLINE)
        except Failed:
            return False  # it is a worker
        except Postponed as error:
            return error.reason.code is Code.ENGINE_BUSY
        return True


@dataclass(frozen=True, slots=True)
class ReachedEngine:
    """An engine that answers, with the ids of its servers. None stands for the local engine."""

    engine: Engine
    identity: EngineIdentity
    server_ids: Sequence[str | None]


_STARTING = frozenset({"pending", "locked", "error"})
_PODMAN = "podman"
# The kernel's names and the registries' names: https://github.com/containerd/platforms
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}


def platform_name(system: str, machine: str) -> str:
    """Return the platform as registries name it, such as `linux/amd64`, of what the kernel calls `x86_64`."""
    return f"{system}/{_ARCHITECTURES.get(machine, machine)}"


@asynccontextmanager
async def connect(access: Access | str, *, keep: float = _KEPT_CONNECTION) -> AsyncIterator[Engine]:
    """Open a client. It connects with the first request. Raises InvalidInput for invalid access data.

    A connection without a request is kept for so many seconds.
    """
    given = Access(access) if isinstance(access, str) else access
    await load_transport(given)
    engine = Engine(given, keep)
    try:
        yield engine
    finally:
        await engine.close()
        await engine.connector.close()


def checked_name(name: str) -> str:
    """Return the name if it is valid in a path, which the client does not escape. Raises Failed."""
    if not _NAME.fullmatch(name):
        raise Failed(Code.BAD_CONFIGURATION, f"{name!r} is not a valid name for the Docker Engine")
    return name


@contextmanager
def translate_errors(*, waiting_for: str = "the call") -> Iterator[None]:
    """Raise the errors of the client and of the daemon as Failed and Postponed."""
    try:
        yield
    except TimeoutError as error:
        raise Postponed(Code.ENGINE_UNREACHABLE, f"the Docker Engine did not finish {waiting_for} in time") from error
    except DockerError as error:
        raise classify(error.status, str(error.message)) from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise Postponed(Code.ENGINE_UNREACHABLE, f"the connection to the Docker Engine broke: {error}") from error
