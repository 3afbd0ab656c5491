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
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from aiohttp import web

from gateway.api.connections import Runner, limits_for, raise_file_limit
from gateway.api.server import build
from gateway.config import Settings
from gateway.docker.engine import client
from gateway.model.errors import InvalidInput, Unavailable
from gateway.model.reference import Domain, parse_domain
from gateway.model.servers import Access
from gateway.registry import client as registry_client
from gateway.store import gateway_address
from gateway.store.database import transaction
from gateway.store.storage import open_storage
from gateway.worker.registry_poller import polling_registries
from gateway.worker.supervisor import supervise

_LOG = structlog.get_logger()
_SERVER_SHUTDOWN = 5.0  # seconds that requests get to finish

_BACKLOG = 1024  # connections that may wait to be accepted


def token_hosts(settings: Settings) -> frozenset[str]:
    """Return the hosts that may receive the credentials of any registry that names them as its token service."""
    return frozenset(text.strip().lower() for text in settings.token_hosts.split(",") if text.strip())


def insecure_registries(settings: Settings) -> frozenset[Domain]:
    """Return the registries to reach without TLS, or with any certificate."""
    return frozenset(parse_domain(text.strip()) for text in settings.insecure_registries.split(",") if text.strip())


def _own_engine(settings: Settings) -> Access:
    access = Access(settings.docker_host)
    if access.address.scheme == "ssh":
        raise InvalidInput(
            f"GATEWAY_DOCKER_HOST is {access.host}, but an engine reached by SSH needs a key: unset it, and register "
            "the machine with: gateway servers create"
        )
    return access


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Serve until the block is left. Yields the URL of the listener, such as `http://127.0.0.1:8080`."""
    limits = limits_for(raise_file_limit(), settings.body_limit)
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(settings))
        engine = await stack.enter_async_context(client.connect(_own_engine(settings)))
        registry = await stack.enter_async_context(
            registry_client.connect(insecure_registries(settings), token_hosts=token_hosts(settings))
        )
        supervisor = await stack.enter_async_context(supervise(storage.pool, storage.vault, engine, registry, settings))
        await stack.enter_async_context(
            polling_registries(storage.pool, storage.vault, registry, settings, supervisor.background_tasks)
        )
        application = build(storage.pool, storage.vault, supervisor, settings, registry)
        runner = Runner(application, limits, shutdown_timeout=_SERVER_SHUTDOWN)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = settings.address
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            used = f"Another program uses {settings.listen}. Stop it, or set GATEWAY_LISTEN."
            raise Unavailable(used) from error
        listening = runner.addresses[0]
        address = f"http://{listening[0]}:{listening[1]}"
        async with transaction(storage.pool) as connection:
            await gateway_address.update_serving(connection, public_url=settings.public_url, listens=address)
        yield address


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    starting = asyncio.current_task()

    def stop() -> None:
        stopping.set()
        if starting is not None:  # the start may take long, for a migration or its lock
            starting.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        async with running(settings) as address:
            starting = None
            _LOG.info("Serving", address=address)
            await stopping.wait()
            _LOG.info("Stopping")
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    _LOG.info("Stopped")
