"""Builds the application: the one place that knows every part.

Opened downwards, closed upwards, so that rollouts end while the engine and PostgreSQL still live:

    1  listeners close          5  then they are cut, and put the old container back
    2  requests finish          6  the engine's and the registries' connections close
    3  no more claims           7  PostgreSQL's do, and the embedded server stops
    4  rollouts get the grace
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from aiohttp import web

from gateway.api import Runner, build, limits_for, raise_file_limit
from gateway.config import Settings
from gateway.docker.engine import client
from gateway.model.errors import InvalidInput
from gateway.model.reference import Domain, parse_domain
from gateway.model.servers import Access
from gateway.registry import client as registry_client
from gateway.store import gateway_address
from gateway.store.database import transaction
from gateway.store.storage import open_storage
from gateway.worker.registry_poller import polling_registries
from gateway.worker.supervisor import supervise

_LOG = structlog.get_logger()
_SERVER_SHUTDOWN = 5.0  # seconds requests get to finish

_BACKLOG = 1024  # connections that wait to be accepted


def token_hosts(settings: Settings) -> frozenset[str]:
    """Return the hosts that may be sent logins for whichever registry names them."""
    return frozenset(text.strip().lower() for text in settings.token_hosts.split(",") if text.strip())


def insecure(settings: Settings) -> frozenset[Domain]:
    """Return the registries that are asked without TLS, or with any certificate."""
    return frozenset(parse_domain(text.strip()) for text in settings.insecure_registries.split(",") if text.strip())


def _own_engine(settings: Settings) -> Access:
    access = Access(settings.docker_host)
    if access.address.scheme == "ssh":
        raise InvalidInput(
            f"GATEWAY_DOCKER_HOST is {access.host}, and an engine by SSH needs a key: unset it, and register that host "
            "with: gateway servers create"
        )
    return access


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Serve until the block is left; yields the address that is listened on, as `http://127.0.0.1:8080`."""
    limits = limits_for(raise_file_limit(), settings.body_limit)
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(settings))
        engine = await stack.enter_async_context(client.connect(_own_engine(settings)))
        registry = await stack.enter_async_context(
            registry_client.connect(insecure(settings), token_hosts=token_hosts(settings))
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
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        listening = runner.addresses[0]
        address = f"http://{listening[0]}:{listening[1]}"
        async with transaction(storage.pool) as connection:
            await gateway_address.update_serving(connection, public_url=settings.public_url, listens=address)
        yield address


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    told = asyncio.Event()
    begins = asyncio.current_task()

    def tell() -> None:
        told.set()
        if begins is not None:  # it has not begun yet: a migration may take long, and the lock of one too
            begins.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    try:
        async with running(settings) as address:
            begins = None
            _LOG.info("Serving", address=address)
            await told.wait()
            _LOG.info("Stopping")
    except asyncio.CancelledError:
        if not told.is_set():
            raise
    _LOG.info("Stopped")
