"""The engines that this gateway reaches: its own, and one for each registered server.

Changes of the registered servers are followed. When two addresses lead to the same daemon, the first that answers
claims for both.

What is asked of the database is asked once for all engines. What each engine costs is bounded: with many of them, each
is checked less often. Of several gateways, one watches an engine (`shares`), and the others take over what it misses: a
deployment that it does not claim at once, and an engine that no gateway has reached for a while.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from uuid import uuid4

import structlog

from gateway.background import POLL_INTERVAL, BackgroundTasks, cancel_and_wait
from gateway.config import Settings
from gateway.docker.engine.client import Engine, EngineIdentity, ReachedEngine, connect
from gateway.model.errors import GatewayError, Unavailable
from gateway.model.servers import Server
from gateway.rollout.attempt import PREPARATIONS
from gateway.rollout.swap_slots import SwapSlots
from gateway.store import engines, leases, members, servers
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.engines import Place, Seen
from gateway.store.leases import Due
from gateway.worker import claims
from gateway.worker.check_slots import CheckSlots
from gateway.worker.engine_worker import Claimed, EngineWorker, PeriodicTask, Slots
from gateway.worker.periodic import run_where_found
from gateway.worker.recorder import Recorder
from gateway.worker.shares import Shares

_LOG = structlog.get_logger()

_REFRESH_INTERVAL = 30.0  # seconds; a notification about a changed server comes sooner
_REFRESH_PAUSE = 10.0  # how many times as long as a refresh takes until the next one, however many servers change
_STRANDED_AFTER = 60.0  # seconds without contact to an engine, until its queued deployments say so
_STOP_DEADLINE = 5.0  # seconds that workers may take to end when the gateway stops
_CHECK_INTERVAL = 5.0  # seconds between checks of an engine that answers
# Checks of one kind in a second, at most: the engines that are watched, those that are not, those that do not answer.
_WATCHED_CHECKS, _OTHER_CHECKS, _VAIN_CHECKS = 100.0, 20.0, 50.0
_LONGEST_CHECK = 40.0  # seconds between checks of a watched engine
_FIRST_CHECKS = 200.0  # engines of its own share in a second, at the start
# Checks at once, of engines that answered the last time, and of others. They are few, so that on a busy gateway, where
# each takes longer, checks leave the processor to claims and rollouts.
_GOOD_CHECKS_AT_ONCE, _OTHER_CHECKS_AT_ONCE, _URGENT_CHECKS_AT_ONCE = 16, 8, 32
_CHECK_PATIENCE = 0.25  # seconds after which a check no longer counts: those that hang hold up no engine that answers
# Runs of periodic tasks at once, so that those of thousands of engines leave the database to claims and rollouts.
_RUNS_AT_ONCE = 32
# With so many engines, a connection that waits for the next check of its engine is one too many.
_MANY, _KEPT_CONNECTION = 1000, 2.0  # engines, seconds
_MEMBERS_INTERVAL = 2.0  # seconds between looks at which gateways there are
# Seconds in which no gateway has seen an engine, until this one watches it too: at least so many checks were missed.
_UNSEEN_AFTER, _MISSED_CHECKS = 30.0, 3
_IN_VAIN = 0.1  # seconds, at most, between two looks that find nothing to claim, unless an engine can do more
_LEFT_TO_WATCHER = 0.3  # seconds that a deployment is left to the gateway that watches its engine

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
        #: ends the wait of a server's worker that has not begun: with many servers, they begin one after another
        self._begin_now: dict[str, asyncio.Event] = {}
        self._registered: Collection[_Key] = ()
        #: why servers cannot be used, as it was logged
        self._unusable: dict[_Key, str] = {}
        self._slots: defaultdict[str, Slots] = defaultdict(
            lambda: Slots(settings.rollouts, SwapSlots(settings.swaps), asyncio.Semaphore(PREPARATIONS))
        )
        self._refresh_wanted = asyncio.Event()
        self._woken, self._has_room = asyncio.Event(), asyncio.Event()
        self.retired = False
        self._recorder = Recorder(pool)
        #: the workers by server and by daemon; the first of several is the one that was registered first
        self._by_server: dict[str | None, EngineWorker] = {None: self._workers[_OWN]}
        self._by_daemon: defaultdict[str, list[EngineWorker]] = defaultdict(list)
        self._vain: set[EngineWorker] = set()
        self.runs = asyncio.Semaphore(_RUNS_AT_ONCE)
        self._good_checks = CheckSlots(_GOOD_CHECKS_AT_ONCE, patience=_CHECK_PATIENCE)
        self._other_checks = CheckSlots(
            _OTHER_CHECKS_AT_ONCE,
            spare=_URGENT_CHECKS_AT_ONCE - _OTHER_CHECKS_AT_ONCE,
            patience=_CHECK_PATIENCE,
        )
        #: the servers on which a deployment is due that waits for their first check
        self._awaited: set[str] = set()
        self._shares = Shares()
        self._share_wanted = asyncio.Event()
        self._joined = asyncio.Event()
        #: whether a deployment is left to the gateway that watches its engine
        self._leaves_some = False

    # -- state

    @property
    def workers(self) -> Sequence[EngineWorker]:
        """The workers; the gateway's own engine comes first."""
        return list(self._workers.values())

    def servers_claimed_by(self, worker: EngineWorker) -> list[str | None]:
        if worker.identity is None or worker.retired:
            return []
        same = self._same_daemon(worker.identity)
        first = next((one for one in same if one.reachable), None)
        return [one.server_id for one in same] if first is worker else []

    def reaches(self, identity: EngineIdentity) -> bool:
        return any(one.reachable for one in self._same_daemon(identity))

    def _same_daemon(self, identity: EngineIdentity) -> Sequence[EngineWorker]:
        return self._by_daemon.get(identity.daemon, ())

    def watches(self, worker: EngineWorker) -> bool:
        return self._shares.watches(worker.server_id)

    # -- for the workers

    def changed(self, worker: EngineWorker, before: EngineIdentity | None) -> None:
        if self._by_server.get(worker.server_id) is not worker:
            return  # its server was removed or changed
        is_awaited = worker.server_id in self._awaited
        if worker.server_id is not None:
            self._awaited.discard(worker.server_id)
        (self._vain.discard if worker.reachable else self._vain.add)(worker)
        concerned = {worker}
        for identity in (before, worker.identity):
            if identity is not None:
                concerned.update(self._same_daemon(identity))
        if worker.identity is not None and before != worker.identity:
            self._forget(worker, before)
            same = self._by_daemon[worker.identity.daemon]
            same.append(worker)
            if len(same) > 1:
                order = {one: number for number, one in enumerate(self._workers.values())}
                same.sort(key=order.__getitem__)
        for one in concerned:
            one.watch_or_leave()
        # Thousands may come one after another: only where something is due, it is looked for at once.
        self.make_room() if is_awaited else self.wake()

    def _forget(self, worker: EngineWorker, identity: EngineIdentity | None) -> None:
        """Take a worker out of those of a daemon."""
        if identity is not None and worker in (same := self._by_daemon.get(identity.daemon, [])):
            same.remove(worker)
            if not same:
                del self._by_daemon[identity.daemon]

    def check_slot(self, worker: EngineWorker) -> AbstractAsyncContextManager[None]:
        slots = self._good_checks if worker.reachable else self._other_checks
        return slots.hold(worker, urgent=worker.server_id in self._awaited)

    def check_interval(self, worker: EngineWorker) -> float:
        if not worker.reachable:
            return max(POLL_INTERVAL, len(self._vain) / _VAIN_CHECKS)
        if self.watches(worker):
            watched = len(self._workers) - len(self._shares.left)
            return max(_CHECK_INTERVAL, min(watched / _WATCHED_CHECKS, _LONGEST_CHECK))
        return max(_CHECK_INTERVAL, len(self._shares.left) / _OTHER_CHECKS)

    @property
    def spread(self) -> float:
        return len(self._by_daemon) / _WATCHED_CHECKS if len(self._by_daemon) > _WATCHED_CHECKS else 0.0

    def record(self, seen: Seen) -> None:
        self._recorder.record(seen)

    async def record_now(self, seen: Seen) -> None:
        await self._recorder.record_now(seen)

    # -- claims

    async def _claim_until_retired(self) -> None:
        """Claim for all engines."""
        while not self.retired:
            self._woken.clear()
            self._has_room.clear()
            began, in_vain = time.monotonic(), True
            while await self._claim_some():
                began, in_vain = time.monotonic(), False
            # Wakes that come together are answered together. Those in vain leave the processor to others. The look that
            # found nothing says how long: on a busy gateway, the claims before it may have taken much longer.
            took = min(time.monotonic() - began, _IN_VAIN)
            await asyncio.sleep(took)
            if in_vain:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(9 * took, _IN_VAIN)):
                        await self._has_room.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEFT_TO_WATCHER if self._leaves_some else POLL_INTERVAL):
                    await self._woken.wait()

    async def _claim_some(self) -> bool:
        """Claim some of what is due; return whether there was any."""
        held: dict[str, tuple[EngineWorker, EngineIdentity, Slots]] = {}
        self._leaves_some = False

        def choose(due: Due) -> str | None:
            worker = self._claiming(due)
            if worker is None or worker.identity is None or self.retired:
                return None
            slots = self._slots[worker.identity.daemon]
            if not worker.hold(slots):
                return None
            held[due.deployment_id] = worker, worker.identity, slots
            return worker.identity.engine_id

        found, claimed_at = [], time.monotonic()
        try:
            async with statement(self._pool) as connection:
                found = await claims.claim(
                    connection,
                    owner=self.owner,
                    choose=choose,
                    running_ids=self._running_ids,
                    lease=self._settings.lease,
                )
                if not found and self._leaves_some and await self._share_if_changed(connection):
                    return True  # some of it is no longer left to another gateway
        finally:
            for deployment_id in held.keys() - {one.deployment_id for one in found}:
                worker, _, slots = held[deployment_id]
                worker.release(slots)
        waiting = [Claimed(one, *held[one.deployment_id], claimed_at) for one in reversed(found)]
        try:
            while waiting:
                await self.roll_out(waiting[-1])
                waiting.pop()
        finally:
            for claimed in waiting:
                claimed.release()
        return bool(found)

    def _claiming(self, due: Due) -> EngineWorker | None:
        """Return the worker that claims the deployment now; None for none here, or not yet."""
        if not self._shares.watches(due.server_id) and due.waited.total_seconds() < _LEFT_TO_WATCHER:
            self._leaves_some = True
            return None
        own = self._by_server.get(due.server_id)
        if own is None or (own.identity is None and own.error is None):
            self._leaves_some |= due.server_id is not None and self._reach(due.server_id)
            return None
        if own.identity is None or due.engine_id not in {None, own.identity.engine_id}:
            return None
        return next((one for one in self._same_daemon(own.identity) if one.reachable), None)

    def _reach(self, server_id: str) -> bool:
        """Let a server be checked for the first time, before all where nothing is due. Return whether it will be."""
        own = self._by_server.get(server_id)
        if own is None and server_id not in self._begin_now:
            return server_id in self._awaited  # it began, and is about to be checked; or there is no such server
        self._awaited.add(server_id)
        if own is None:
            self._begin(server_id)
        else:
            self._other_checks.hurry(own)
        return True

    # -- shares

    @asynccontextmanager
    async def member(self, connection: Connection) -> AsyncIterator[None]:
        """Be one of the gateways that share the engines, for as long as the connection lasts."""
        self._shares.number = await members.join(connection)
        self._share_wanted.set()
        try:
            yield
        finally:
            await members.leave(connection, self._shares.number)

    async def _share_forever(self) -> None:
        while True:
            self._share_wanted.clear()
            async with statement(self._pool) as connection:
                await self._share(connection, await members.select_members(connection))
            with suppress(TimeoutError):
                async with asyncio.timeout(_MEMBERS_INTERVAL):
                    await self._share_wanted.wait()

    async def _share_if_changed(self, connection: Connection) -> bool:
        """Follow at once that gateways came or went; return whether they did."""
        found = await members.select_members(connection)
        if self._shares.number not in found or found == self._shares.members:
            return False
        await self._share(connection, found)
        return True

    async def _share(self, connection: Connection, found: frozenset[int]) -> None:
        """Find out which engines this gateway watches."""
        if self._shares.number not in found:
            return  # it is about to become one
        unseen_after = timedelta(seconds=max(_UNSEEN_AFTER, self._missed(len(found))))
        unseen = await engines.select_unseen(connection, unseen_after) if len(found) > 1 else set()
        registered = [server_id for server_id, _ in self._registered if server_id is not None]
        for number, server_id in enumerate(self._shares.follow(found, registered, unseen, time.monotonic())):
            # One after another, since there may be thousands.
            asyncio.get_running_loop().call_later(number / _FIRST_CHECKS, self._share_changed, server_id)
        self._joined.set()

    def _missed(self, gateways: int) -> float:
        """Return the seconds in which so many gateways miss a few checks of each engine, when all are busy."""
        return _MISSED_CHECKS * len(self._registered) / gateways / _WATCHED_CHECKS

    def _share_changed(self, server_id: str) -> None:
        """Follow a change of whether this gateway watches a server."""
        if worker := self._by_server.get(server_id):
            worker.share_changed()
        elif self._shares.watches(server_id):
            self._begin(server_id)

    def _begin(self, server_id: str) -> bool:
        """Let the worker of a server begin, if it waits for its turn. Return whether it did."""
        if (begin := self._begin_now.get(server_id)) is None:
            return False
        begin.set()
        return True

    # -- starting and stopping

    def wake(self) -> None:
        """Look for deployments to claim."""
        self._woken.set()

    def make_room(self) -> None:
        """Look for deployments to claim at once: an engine can do more than before."""
        self._has_room.set()
        self._woken.set()

    def refresh(self) -> None:
        """Read the registered servers again."""
        self._refresh_wanted.set()

    def retire(self) -> None:
        """Claim no more on any engine."""
        self.retired = True
        self.make_room()
        for worker in self._workers.values():
            worker.retire()
        for server_id in self._begin_now:
            self._begin(server_id)  # its task sees that the pool is retired, and ends

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the workers until the block is left; then stop them, whatever runs there."""
        own = self._workers[_OWN]
        self._start(_OWN, own.run, address=own.address)
        start = self.background_tasks.start
        others = [
            start("servers", self._follow_servers),
            start("shares", self._share_forever),
            start("engine states", self._recorder.run),
            *(
                start(task.name, partial(run_where_found, task, self._find_reached), patience=task.interval)
                for task in self.periodic_tasks
                if not task.on_events
            ),
        ]
        claiming = start("engine claims", self._claim_until_retired)
        try:
            yield
        finally:
            self.retire()
            # What is being claimed is given back. Workers without a rollout end by themselves.
            tasks = {claiming, *self._tasks.values()}
            _, late = await asyncio.wait(tasks, timeout=_STOP_DEADLINE)
            await cancel_and_wait(*others, *late)

    def _find_reached(self, places: Collection[Place] | None) -> list[ReachedEngine]:
        """Return the engines at these places, or all, that this gateway watches."""
        if places is None:
            found = list(self._workers.values())
        else:
            found = [one for place in places if (one := self._by_server.get(place.server_id))]
            found = [one for own in found if own.identity for one in self._same_daemon(own.identity)]
        reached = {one: what for one in found if (what := one.reached()) is not None}
        return list(reached.values())

    def _start(self, key: _Key, run: Callable[[], Awaitable[None]], *, address: str) -> None:
        task = self.background_tasks.start("engine", run, about=address)
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _follow_servers(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._joined.wait(), _MEMBERS_INTERVAL)  # its own share comes first
        while True:
            self._refresh_wanted.clear()
            began = time.monotonic()
            silent = max(_STRANDED_AFTER, self._missed(max(1, len(self._shares.members))))
            async with transaction(self._pool) as connection:
                registered = await servers.select_servers(connection, self._vault)
                await leases.mark_stranded(connection, timedelta(seconds=silent))
            self._update_workers(registered)
            await asyncio.sleep((time.monotonic() - began) * _REFRESH_PAUSE)
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
        removed = {server_id for server_id, _ in self._registered} - {server_id for server_id, _ in wanted}
        self._registered = wanted.keys()
        self._unusable = {key: why for key, why in self._unusable.items() if key in wanted}
        for key in [key for key in self._workers if key not in wanted and key != _OWN]:
            self._drop(key)
        for server_id in filter(None, removed):
            self._shares.forget(server_id)
            self._awaited.discard(server_id)
            self._begin(server_id)  # a task that still waits sees that its server is gone, and ends
        new = wanted.keys() - self._tasks.keys()
        self._shares.register(server_id for server_id, _ in new if server_id is not None)
        ours = [key for key in new if self._shares.watches(key[0])]
        others = [key for key in new if not self._shares.watches(key[0])]
        after = [number / _FIRST_CHECKS for number in range(len(ours))]
        after += [len(ours) / _FIRST_CHECKS + number / _OTHER_CHECKS for number in range(len(others))]
        for key, pause in zip([*ours, *others], after, strict=True):
            self._start(key, partial(self._run_worker, key, wanted[key], after=pause), address=wanted[key].access.host)

    def _drop(self, key: _Key) -> None:
        """Let a worker end whose server was removed or changed."""
        worker = self._workers.pop(key)
        if self._by_server.get(worker.server_id) is worker:
            del self._by_server[worker.server_id]
        self._forget(worker, worker.identity)
        self._vain.discard(worker)
        worker.retire()
        if worker.identity is not None:
            for one in self._same_daemon(worker.identity):
                one.watch_or_leave()

    async def _run_worker(self, key: _Key, server: Server, *, after: float) -> None:
        """Run a worker for as long as its server is registered. A failure starts it again.

        It begins after so many seconds, or as soon as something is due on its engine or this gateway watches it.
        """
        if after:
            await self._wait_to_begin(server.server_id, after)
        if key not in self._registered or self.retired:
            return
        try:
            if server.unreadable is not None:
                raise Unavailable(server.unreadable)
            keep = {"keep": _KEPT_CONNECTION} if len(self._registered) > _MANY else {}
            async with connect(server.access, **keep) as engine:
                worker = EngineWorker(self._pool, self, engine, server.access.host, server.server_id)
                self._workers[key] = self._by_server[server.server_id] = worker
                if self.retired:
                    worker.retire()
                try:
                    await worker.run()
                finally:
                    self._forget(worker, worker.identity)
                    self._vain.discard(worker)
        except GatewayError as error:
            self._awaited.discard(server.server_id)
            if self._unusable.get(key) != str(error):  # it is tried again with each refresh
                self._unusable[key] = str(error)
                _LOG.warning("A server cannot be used", server=server.name, error=str(error))

    async def _wait_to_begin(self, server_id: str, seconds: float) -> None:
        self._begin(server_id)  # a task that waits with the former settings of the server sees that, and ends
        begin = self._begin_now[server_id] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await begin.wait()
        finally:
            if self._begin_now.get(server_id) is begin:
                del self._begin_now[server_id]
