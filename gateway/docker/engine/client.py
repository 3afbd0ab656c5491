"""One Docker Engine, reached over its socket.

Every call has a deadline, every failure becomes one of ours here: see https://docs.docker.com/reference/api/engine/
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

from gateway.docker.engine.errors import classify
from gateway.docker.engine.shield import run_to_completion
from gateway.docker.engine.transport import connector as connector_for
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.servers import Access

CALL_DEADLINE = 60.0  # seconds; stop and pull have their own
_CONNECT_DEADLINE = 5.0  # seconds
_IDENTIFY_DEADLINE = 10.0  # seconds

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Who answers: `engine_id` is the daemon's own, `platform` is `linux/amd64`.

    Cloned machines may share an id: `run` then tells them apart, as long as the daemon runs. What its containers
    publish is reached at `address`. `node_id` is its name in a Swarm, "" outside of one.
    """

    engine_id: str
    name: str
    version: str
    platform: str
    run: str = ""
    address: str = "127.0.0.1"
    swarm_manager: bool = False
    node_id: str = ""
    #: it is a node of a Swarm, and does not know yet whether it manages that; or it is locked
    swarm_starting: bool = False

    @property
    def daemon(self) -> str:
        """What two addresses of one daemon have in common, and no other daemon has.

        A daemon without a bridge of its own keeps its networks: what its host is called tells clones apart then.
        """
        return f"{self.engine_id}/{self.name}/{self.node_id}/{self.run}"


class Engine(aiodocker.Docker):
    """The client, closing each response, so that a cancelled pull ends in the daemon too."""

    #: asked before each call that changes something; raises where it must not be made any more
    _allowed: Callable[[], Awaitable[None]] | None = None
    _manages = False

    def __init__(self, access: Access) -> None:
        connector, url = connector_for(access)
        super().__init__(url=url, connector=connector, timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_DEADLINE))
        self._connection_info = access.host  # what errors name
        self.address = access.address.published_host  # of what its containers publish
        self.image_labels: dict[str, Mapping[str, str]] = {}  # by the image's id, for `images`
        self.run = ""  # of its last identity
        self.unbounded_logs: dict[str, bool] = {}  # by its run, for `log_driver`

    def fenced(self, allowed: Callable[[], Awaitable[None]]) -> Self:
        """Return the same engine, over the same connections, that asks before each call that changes something."""
        one = copy(self)
        one._allowed = allowed  # noqa: SLF001 - its own
        return one

    def managing(self) -> Self:
        """Return the same engine, of which it is known that it manages a Swarm: where it says otherwise it starts."""
        one = copy(self)
        one._manages = True  # noqa: SLF001 - its own
        return one

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
        """Make one call, with a JSON body or with bytes, and return its JSON; raises what `translated` does.

        The engine does what it has begun, whether or not we wait for it. So a call that changes something is waited
        for even when we are told to stop: what is put back then is what it has left.
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
            raise Postponed(Code.ENGINE_BUSY, f"the engine manages its Swarm no more, or not yet: {error}") from error

    async def _made(self, method: str, path: str, deadline: float, **given: Any) -> Any:
        with translate_errors(waiting_for=f"{method} {path}"):
            async with (
                asyncio.timeout(deadline),
                self._query(path, method, **given) as response,
            ):
                answer = await response.read()
                return orjson.loads(answer) if answer.strip() else None

    async def identify(self) -> EngineIdentity:
        info = await self.call("GET", "info", deadline=_IDENTIFY_DEADLINE)
        swarm = info.get("Swarm") or {}
        # Made anew at each start of the daemon: the bridge, unless it has none.
        networks = await self.call("GET", "networks", params=BUILT_IN, deadline=_IDENTIFY_DEADLINE)
        self.run = ",".join(sorted(network["Id"] for network in networks))
        return EngineIdentity(
            engine_id=info["ID"],
            name=info["Name"],
            version=info["ServerVersion"],
            platform=f"{info['OSType']}/{_ARCHITECTURES.get(info['Architecture'], info['Architecture'])}",
            run=self.run,
            address=self.address,
            swarm_manager=bool(swarm.get("ControlAvailable")) and swarm.get("LocalNodeState") == "active",
            node_id=swarm.get("NodeID", ""),
            swarm_starting=await self._starts(swarm),
        )

    async def _starts(self, swarm: Mapping[str, Any]) -> bool:
        """Tell whether what the engine says of its part of a Swarm is not its last word."""
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
    """An engine that answers, and the servers whose applications are looked after by way of it; None is its own."""

    engine: Engine
    identity: EngineIdentity
    server_ids: Sequence[str | None]


_STARTING = frozenset({"pending", "locked", "error"})
BUILT_IN = {"filters": '{"type":["builtin"]}'}
# The kernel's word for it and the registries': https://github.com/containerd/platforms
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386"}


@asynccontextmanager
async def connect(access: Access | str) -> AsyncIterator[Engine]:
    """Hold a client; it connects when it is first used. Raises InvalidInput where it could never connect."""
    engine = Engine(Access(access) if isinstance(access, str) else access)
    try:
        yield engine
    finally:
        await engine.close()
        await engine.connector.close()


def checked_name(name: str) -> str:
    """Return a name that may stand in a path, unescaped as the client sends it; raises Failed."""
    if not _NAME.fullmatch(name):
        raise Failed(Code.BAD_CONFIGURATION, f"{name!r} is not a name the Docker Engine knows")
    return name


@contextmanager
def translate_errors(*, waiting_for: str = "the call") -> Iterator[None]:
    """Let nothing of the client's or the daemon's errors out but Failed and Postponed."""
    try:
        yield
    except TimeoutError as error:
        raise Postponed(Code.ENGINE_UNREACHABLE, f"the Docker Engine did not finish {waiting_for} in time") from error
    except DockerError as error:
        raise classify(error.status, str(error.message)) from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise Postponed(Code.ENGINE_UNREACHABLE, f"the connection to the Docker Engine broke: {error}") from error
