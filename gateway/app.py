"""Build the application: the one place that knows every part.

The parts are opened in the order of the code and closed in the opposite order, so that rollouts end before the
connections that they need:

    1  the listeners close
    2  requests finish
    3  no deployment is claimed any more
    4  rollouts get GATEWAY_SHUTDOWN_GRACE to finish
    5  the others are cancelled, and put the old container back
    6  the connections to the engine and the registries close
    7  the connections to PostgreSQL close, and the embedded server stops
"""

import asyncio
import errno
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import structlog
from aiohttp import web

from gateway import installation, processes, service_manager
from gateway.admin.context import Context
from gateway.api.connections import Limits, Runner, limits_for, raise_file_limit
from gateway.api.health import MetricsOfOthers, no_metrics
from gateway.api.ingress.shared_buckets import SharedBuckets
from gateway.api.local_users import LOCAL_SOCKET
from gateway.api.server import build
from gateway.config import Settings
from gateway.dashboard.server import add_dashboard
from gateway.docker.engine import client
from gateway.model.errors import InvalidInput, Unavailable
from gateway.model.servers import Access
from gateway.registry import client as registry_client
from gateway.registry.trusted import insecure_registries, token_hosts
from gateway.stopping import run_until_stopped
from gateway.store import gateway_address
from gateway.store.data_directory import make_private
from gateway.store.database import Pool, transaction
from gateway.store.storage import open_storage
from gateway.token_buckets import Buckets
from gateway.worker.promoter import promoting
from gateway.worker.registry_poller import polling_registries
from gateway.worker.supervisor import Supervisor, supervise

_LOG = structlog.get_logger()

_SERVER_SHUTDOWN = 5.0  # seconds that requests get to finish
_LOOK_AGAIN = 1.0  # seconds between two messages to the service manager


def _own_engine(settings: Settings) -> Access:
    access = Access(settings.docker_host)
    if access.address.scheme == "ssh":
        raise InvalidInput(
            f"GATEWAY_DOCKER_HOST is {access.host}, but an engine reached by SSH needs a key: unset it, and register "
            "the machine with: gateway servers create"
        )
    return access


@asynccontextmanager
async def running(settings: Settings, *, as_json: bool = False) -> AsyncIterator[str]:
    """Serve until the block is left. Yields the URL of the listener, such as `http://127.0.0.1:8080`."""
    limits = limits_for(raise_file_limit(), settings.body_limit)
    own = settings.of_one_process()
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(own))
        engine = await stack.enter_async_context(client.connect(_own_engine(own)))
        registry = await stack.enter_async_context(
            registry_client.connect(insecure_registries(own), token_hosts=token_hosts(own))
        )
        supervisor = await stack.enter_async_context(supervise(storage.pool, storage.vault, engine, registry, own))
        await stack.enter_async_context(
            polling_registries(storage.pool, storage.vault, registry, own, supervisor.background_tasks)
        )
        await stack.enter_async_context(
            promoting(storage.pool, storage.vault, registry, supervisor.context.alerts, supervisor.background_tasks)
        )
        services = Context(storage.pool, storage.vault, supervisor, own, registry)
        serving = _serving_with_others if settings.processes > 1 else _serving
        address = await stack.enter_async_context(serving(services, settings, limits, as_json=as_json))
        store_address = partial(_store_address, storage.pool, settings.public_url, address)
        await stack.enter_async_context(supervisor.background_tasks.running("serving address", store_address))
        service_manager.notify(f"Serving at {address}", ready=True)
        if service_manager.is_there():
            notify_of_state = partial(_notify_of_state, supervisor, address)
            await stack.enter_async_context(supervisor.background_tasks.running("service state", notify_of_state))
        yield address


async def _notify_of_state(supervisor: Supervisor, address: str) -> None:
    """Notify the service manager of what is wrong, each time that this changes."""
    sent = ""
    while True:
        wrong = [str(one.error) for one in supervisor.engines if one.error is not None]
        wrong += [f"{one.name}: {one.error}" for one in supervisor.background_tasks.failing]
        status = "; ".join([f"Serving at {address}", *wrong])
        if status != sent:
            service_manager.notify(status)
            sent = status
        await asyncio.sleep(_LOOK_AGAIN)


async def _store_address(pool: Pool, public_url: str | None, address: str) -> None:
    async with transaction(pool) as connection:
        await gateway_address.update_serving(connection, public_url=public_url, listens=address)


def _application(
    context: Context, *, buckets: Buckets | None = None, accepting: MetricsOfOthers = no_metrics
) -> web.Application:
    """Return the HTTP application: the API and the dashboard."""
    application = build(context, buckets=buckets, accepting=accepting)
    add_dashboard(application)
    return application


@asynccontextmanager
async def _serving(context: Context, settings: Settings, limits: Limits, *, as_json: bool) -> AsyncIterator[str]:
    """Accept in this process alone. Yields the URL of the listener."""
    _ = as_json
    application = _application(context)
    with _socket_for_commands(application, settings) as commands:
        async with _runner(application, limits) as runner:
            host, port = settings.address
            with _naming_the_setting(settings):
                await web.TCPSite(runner, host, port, backlog=processes.BACKLOG).start()
            url = _url(runner)
            await _take_commands(runner, commands)
            yield url


@asynccontextmanager
async def _serving_with_others(
    context: Context, settings: Settings, limits: Limits, *, as_json: bool
) -> AsyncIterator[str]:
    """Accept in this process and in others. Yields the URL of the listener."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-processes-")))
        buckets = SharedBuckets.create()
        stack.callback(buckets.close)
        with _naming_the_setting(settings):
            own, *others = processes.listen(*settings.address, settings.processes)
        for one in chain(own, *others):
            stack.callback(one.close)
        accepting = processes.AcceptingProcesses(directory, context.settings, buckets.descriptor, as_json=as_json)
        application = _application(context, buckets=buckets, accepting=accepting.metrics)
        commands = stack.enter_context(_socket_for_commands(application, settings))
        runner = await stack.enter_async_context(_runner(application, limits))
        sites = [web.SockSite(runner, one, backlog=processes.BACKLOG) for one in own]
        for site in sites:
            await site.start()
        address = _url(runner)
        await _take_commands(runner, commands)
        await web.UnixSite(runner, str(accepting.supervising), backlog=processes.BACKLOG).start()
        # The others stop first, since they relay to this one; before that, nothing more is accepted here.
        await stack.enter_async_context(accepting.running(others, context.rollouts.background_tasks))
        for site in sites:
            stack.push_async_callback(site.stop)
        yield address


@contextmanager
def _socket_for_commands(application: web.Application, settings: Settings) -> Iterator[socket.socket | None]:
    """Yield the socket on which users of this host give commands; None, with a warning, where there can be none."""
    url = None if settings.database_url is None else settings.database_url.get_secret_value()
    directory = settings.data_dir.absolute()
    with ExitStack() as stack:
        commands = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_private(installation.socket_directory(directory))
            mark = installation.database_mark(url)
            commands = stack.enter_context(installation.listening_socket(directory, mark))
            application[LOCAL_SOCKET] = commands.getsockname()
        except (OSError, Unavailable) as error:
            _LOG.warning("Commands on this host cannot use the gateway: it has no socket", why=str(error))
        yield commands


async def _take_commands(runner: Runner, commands: socket.socket | None) -> None:
    if commands is not None:
        await web.SockSite(runner, commands).start()


@asynccontextmanager
async def _runner(application: web.Application, limits: Limits) -> AsyncIterator[Runner]:
    runner = Runner(application, limits, shutdown_timeout=_SERVER_SHUTDOWN)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


def _url(runner: Runner) -> str:
    listening = runner.addresses[0]
    return f"http://{listening[0]}:{listening[1]}"


@contextmanager
def _naming_the_setting(settings: Settings) -> Iterator[None]:
    """Raise Unavailable where another program listens."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        used = f"Another program uses {settings.listen}. Stop it, or set GATEWAY_LISTEN."
        raise Unavailable(used) from error


async def serve(settings: Settings, *, as_json: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. `as_json` is for the log of its other processes."""
    service_manager.notify("Starting: opening the database, and migrating it")
    await run_until_stopped(_notifying_of_its_stop(running(settings, as_json=as_json), settings))


@asynccontextmanager
async def _notifying_of_its_stop(serving: AbstractAsyncContextManager[str], settings: Settings) -> AsyncIterator[str]:
    async with serving as address:
        try:
            yield address
        finally:
            grace = settings.shutdown_grace
            service_manager.notify(f"Stopping: rollouts get {grace:g} s to finish, or are put back", stopping=True)
