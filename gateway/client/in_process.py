"""Call procedures in this process, on the database of this host: before a gateway runs, and with --local.

The caller is the user of this host, with the rights of the gateway's owner: whoever can open the database has them.
"""

import getpass
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from gateway import config
from gateway.admin.context import Context
from gateway.admin.engine_status import EngineStatus
from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc import dispatch, superjson
from gateway.api.rpc.auth import authorize
from gateway.api.rpc.trpc import UNDEFINED
from gateway.background import BackgroundTasks
from gateway.client.gateway import Answer, Gateway, UnknownProcedure, invalid_input
from gateway.docker.engine import client as engine_client
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.model.api_keys import Caller, Permission
from gateway.model.audit import CURRENT_ACTOR, Actor, Outcome
from gateway.model.errors import RolloutError
from gateway.registry import client as registry_client
from gateway.registry.trusted import insecure_registries, token_hosts
from gateway.store import audit, servers
from gateway.store.database import statement
from gateway.store.pagination import Page
from gateway.store.storage import Storage, open_current_storage
from gateway.version import VERSION

#: the procedures that ask engines
_OF_ENGINES = frozenset({"application.adopt", "application.adoptable", "application.readLogs"})
_MOST_SERVERS = 1000


@dataclass
class _Host:
    """An engine that this process connects to by itself."""

    engine: Engine
    address: str
    server_id: str | None
    identity: EngineIdentity | None = None
    error: str | None = None
    running: int = 0

    async def routed(self, networks: Sequence[str], /) -> bool:
        """Return False: nothing is probed from here."""
        _ = networks
        return False


@dataclass
class _NoRollouts:
    """Stands for the worker, which this process has none of: what is queued waits for a gateway."""

    engines: Sequence[EngineStatus] = ()
    background_tasks: BackgroundTasks = field(default_factory=BackgroundTasks)

    def wake(self) -> None:
        """Do nothing: the notification wakes the gateways that run."""

    def when_woken(self, _act: Callable[[], None], /) -> None:
        """Do nothing: nothing is woken here."""


class InProcessGateway(Gateway):
    """A gateway's procedures without the gateway."""

    place = "the database of this host"
    version = VERSION
    is_local = True
    runs = False

    def __init__(self, context: Context, actor: Actor) -> None:
        self._context, self._actor = context, actor

    async def answer(self, procedure: str, given: Mapping[str, Any] | None = None) -> Answer:
        found = PROCEDURES.get(procedure)
        if found is None:
            raise UnknownProcedure(f"this command line has no {procedure}")
        actor = Actor("cli", self._actor.who, self._actor.action or procedure, address=self._actor.address)
        token = CURRENT_ACTOR.set(actor if found.changes else None)
        try:
            async with self._reaching(procedure) as context:
                parsed = await authorize(context, context.caller, found, dict(given or {}))
                answered = await dispatch.run(found, context, parsed)
            if found.changes:
                async with statement(self._context.pool) as connection:
                    await audit.insert_unrecorded(connection, [audit.UnrecordedEvent(actor, Outcome.DONE)])
        except ValidationError as error:  # with the message that it has over HTTP
            problem = dispatch.problem_of(error)
            raise invalid_input(problem.message, problem.issues) from None
        finally:
            CURRENT_ACTOR.reset(token)
        value = None if answered.value is UNDEFINED else _as_json(answered.value)
        return Answer(value, {name.lower(): text for name, text in answered.headers.items()})

    @asynccontextmanager
    async def _reaching(self, procedure: str) -> AsyncIterator[Context]:
        """Yield the context, with connections to the engines where the procedure asks them."""
        if procedure not in _OF_ENGINES:
            yield self._context
            return
        async with AsyncExitStack() as stack:
            own = self._context.settings.docker_host
            accesses: list[tuple[str | None, Any]] = [(None, own)]
            async with statement(self._context.pool) as connection:
                found = await servers.select_servers_page(connection, self._context.vault, Page(_MOST_SERVERS))
            accesses += [(one.server_id, one.access_with_changes({})) for one in found]
            hosts = []
            for server_id, access in accesses:
                engine = await stack.enter_async_context(engine_client.connect(access))
                hosts.append(await _host(engine, server_id))
            yield _with_engines(self._context, hosts)


async def _host(engine: Engine, server_id: str | None) -> _Host:
    host = _Host(engine, engine.address, server_id)
    try:
        host.identity = await engine.identify()
    except RolloutError as error:
        host.error = str(error)
    return host


def _with_engines(context: Context, hosts: Sequence[EngineStatus]) -> Context:
    return Context(context.pool, context.vault, _NoRollouts(hosts), context.settings, context.registry, context.caller)


def _as_json(value: Any) -> Any:
    return orjson.loads(superjson.dumps(value))


@asynccontextmanager
async def open_gateway(settings: config.Settings, command: str) -> AsyncIterator[InProcessGateway]:
    """Open the database without migrating it; an empty one is given its schema, and that is said on standard error."""
    async with (
        open_current_storage(settings, on_empty=lambda: _say_created(settings)) as storage,
        registry_client.connect(insecure_registries(settings), token_hosts=token_hosts(settings)) as registry,
    ):
        yield InProcessGateway(_context(storage, registry), local_actor(command))


def _context(storage: Storage, registry: registry_client.RegistryClient) -> Context:
    user = local_user()
    caller = Caller("", user, Permission.ADMIN, local_user=user)
    return Context(storage.pool, storage.vault, _NoRollouts(), storage.settings, registry, caller)


def _say_created(settings: config.Settings) -> None:
    where = f"in {settings.data_dir}" if settings.database_url is None else "in the database of GATEWAY_DATABASE_URL"
    print(f"gateway: created a new installation {where}", file=sys.stderr)  # noqa: T201


def local_actor(command: str) -> Actor:
    return Actor("cli", local_user(), command, address=socket.gethostname())


def local_user() -> str:
    """Return the user of this process, and by whom sudo was used."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    by = os.environ.get("SUDO_USER")
    return f"{user} (sudo by {by})" if by else user
