"""The engines that this gateway reaches: its own, and one for each registered server.

Changes of the registered servers are followed. When two addresses lead to the same daemon, the first that answers
claims for both.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

import structlog

from gateway.background import BackgroundTasks, cancel_and_wait
from gateway.config import Settings
from gateway.docker.engine.client import Engine, EngineIdentity, connect
from gateway.model.deployments import Deployment
from gateway.model.errors import GatewayError, Unavailable
from gateway.model.servers import Server
from gateway.rollout.attempt import CREATIONS
from gateway.rollout.swap_slots import SwapSlots
from gateway.store import leases, servers
from gateway.store.database import Pool, transaction
from gateway.store.encryption import Vault
from gateway.worker import claims
from gateway.worker.engine_worker import Claimed, EngineWorker, PeriodicTask, Slots

_LOG = structlog.get_logger()

_REFRESH_INTERVAL = 30.0  # seconds; a notification about a changed server comes sooner
_STRANDED_AFTER = 60.0  # seconds without contact to an engine, until its queued deployments say so
_STOP_DEADLINE = 5.0  # seconds that workers may take to end when the gateway stops
_OWN = (None, None)

_Key = tuple[str | None, datetime | None]  # a server, as of its last change


class EnginePool:
    """Runs one EngineWorker for each address. The worker of a removed server ends once its rollouts have ended."""

    def __init__(
        self,
        pool: Pool,
        vault: Vault,
        settings: Settings,
        engine: Engine,
        *,
        roll_out: Callable[[Claimed], Awaitable[None]],
        periodic_tasks: Sequence[PeriodicTask],
        running_ids: Collection[str],
        background_tasks: BackgroundTasks,
    ) -> None:
        self.owner = str(uuid4())
        self.roll_out = roll_out
        self.periodic_tasks = periodic_tasks
        self.background_tasks = background_tasks
        #: the ids of the deployments that run now; a live view
        self._running_ids = running_ids
        self._pool = pool
        self._vault = vault
        self._settings = settings
        self._workers: dict[_Key, EngineWorker] = {_OWN: EngineWorker(pool, self, engine, settings.docker_host)}
        self._tasks: dict[_Key, asyncio.Task[None]] = {}
        self._registered: Collection[_Key] = ()
        self._slots: defaultdict[str, Slots] = defaultdict(
            lambda: Slots(asyncio.Semaphore(settings.rollouts), SwapSlots(settings.swaps), asyncio.Semaphore(CREATIONS))
        )
        self._refresh_wanted = asyncio.Event()
        self.retired = False

    # -- state

    @property
    def workers(self) -> Sequence[EngineWorker]:
        """The workers; the gateway's own engine comes first."""
        return list(self._workers.values())

    def servers_claimed_by(self, worker: EngineWorker) -> list[str | None]:
        same = self._same_daemon(worker.identity) if worker.identity else []
        first = next((one for one in same if one.reachable), None)
        return [one.server_id for one in same] if first is worker else []

    def reaches(self, identity: EngineIdentity) -> bool:
        return any(one.reachable for one in self._same_daemon(identity))

    def _same_daemon(self, identity: EngineIdentity) -> list[EngineWorker]:
        return [one for one in self._workers.values() if one.identity and one.identity.daemon == identity.daemon]

    # -- for the workers

    def slots(self, identity: EngineIdentity) -> Slots:
        return self._slots[identity.daemon]

    async def claim(self, engine_id: str, server_ids: Sequence[str | None]) -> Deployment | None:
        return await claims.claim(
            self._pool,
            owner=self.owner,
            engine_id=engine_id,
            server_ids=server_ids,
            running_ids=list(self._running_ids),
            lease=self._settings.lease,
        )

    # -- starting and stopping

    def wake(self) -> None:
        """Look for deployments to claim."""
        for worker in self._workers.values():
            worker.wake()

    def refresh(self) -> None:
        """Read the registered servers again."""
        self._refresh_wanted.set()

    def retire(self) -> None:
        """Claim no more on any engine."""
        self.retired = True
        for worker in self._workers.values():
            worker.retire()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the workers until the block is left; then stop them, whatever runs there."""
        own = self._workers[_OWN]
        self._start(_OWN, own.run, address=own.address)
        follower = self.background_tasks.start("servers", self._follow_servers)
        try:
            yield
        finally:
            self.retire()
            await cancel_and_wait(follower)
            tasks = set(self._tasks.values())
            # Workers without a rollout end by themselves and close their connections.
            _, late = await asyncio.wait(tasks, timeout=_STOP_DEADLINE) if tasks else (tasks, set[asyncio.Task[None]]())
            await cancel_and_wait(*late)

    def _start(self, key: _Key, run: Callable[[], Awaitable[None]], *, address: str) -> None:
        task = self.background_tasks.start("engine", run, about=address)
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _follow_servers(self) -> None:
        while True:
            self._refresh_wanted.clear()
            async with transaction(self._pool) as connection:
                registered = await servers.select_servers(connection, self._vault)
                await leases.mark_stranded(connection, timedelta(seconds=_STRANDED_AFTER))
            self._update_workers(registered)
            try:
                async with asyncio.timeout(_REFRESH_INTERVAL):
                    await self._refresh_wanted.wait()
            except TimeoutError:
                continue

    def _update_workers(self, registered: Sequence[Server]) -> None:
        """Retire the workers of removed or changed servers, and start workers for the new ones."""
        if self.retired:
            return
        wanted: dict[_Key, Server] = {(server.server_id, server.changed_at): server for server in registered}
        self._registered = wanted.keys()
        for key in [key for key in self._workers if key not in wanted and key != _OWN]:
            self._workers.pop(key).retire()
        for key in wanted.keys() - self._tasks.keys():
            self._start(key, partial(self._run_worker, key, wanted[key]), address=wanted[key].access.host)

    async def _run_worker(self, key: _Key, server: Server) -> None:
        """Run a worker for as long as its server is registered. A failure starts it again."""
        if key not in self._registered:
            return
        try:
            if server.unreadable is not None:
                raise Unavailable(server.unreadable)
            async with connect(server.access) as engine:
                self._workers[key] = EngineWorker(self._pool, self, engine, server.access.host, server.server_id)
                await self._workers[key].run()
        except GatewayError as error:
            _LOG.warning("A server cannot be used", server=server.name, error=str(error))
