"""The engines that this gateway reaches: its own, and one for each registered server.

The pool follows changes of the registered servers. When two addresses lead to the same daemon, the worker of the first
address that answers claims for both.

The database is queried once for all engines. With many engines, each is checked less often, so that the cost of all
checks stays bounded. When several gateways run, one of them watches each engine (`shares`). The others claim a
deployment that the watching gateway does not claim at once, and watch an engine that no gateway has seen for a while.
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
_REFRESH_PAUSE = 10.0  # the least pause until the next refresh, in durations of the last one
_STRANDED_AFTER = 60.0  # seconds without contact to an engine, until its queued deployments give that as their reason
_STOP_DEADLINE = 5.0  # seconds that workers may take to end when the gateway stops
_CHECK_INTERVAL = 5.0  # seconds between checks of an engine that answers
# The most checks in a second: of engines that are watched here, of engines that are not, of engines that do not answer.
_WATCHED_CHECKS, _OTHER_CHECKS, _VAIN_CHECKS = 100.0, 20.0, 50.0
_LONGEST_CHECK = 40.0  # seconds between checks of a watched engine
_FIRST_CHECKS = 200.0  # first checks in a second, of the engines that this gateway watches
# Checks at once: of engines that answered the last time, of other engines, and of those with urgent ones among them.
# They are few, so that on a busy gateway, where each check takes longer, claims and rollouts get the processor.
_GOOD_CHECKS_AT_ONCE, _OTHER_CHECKS_AT_ONCE, _URGENT_CHECKS_AT_ONCE = 16, 8, 32
_CHECK_PATIENCE = 0.25  # seconds after which a check frees its slot, so that engines that hang do not delay others
# Runs of periodic tasks at once: with thousands of engines, the runs must leave the database to claims and rollouts.
_RUNS_AT_ONCE = 32
# With more engines than this, an idle connection is kept only for so many seconds, not until the engine's next check.
_MANY, _KEPT_CONNECTION = 1000, 2.0
_MEMBERS_INTERVAL = 2.0  # seconds between two reads of which gateways there are
# This gateway also watches an engine that no gateway has seen for so many seconds, and for as long as so many checks
# take.
_UNSEEN_AFTER, _MISSED_CHECKS = 30.0, 3
# After a search that finds nothing to claim, wakes wait for at most so many seconds, unless a slot becomes free.
_IN_VAIN = 0.1
_LEFT_TO_WATCHER = 0.3  # seconds that a deployment is left to the gateway that watches its engine

_OWN = (None, None)

_Key = tuple[str | None, datetime | None]  # the id of a server, and the time of its last change


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
        #: by server: ends the wait of a worker that has not begun. With many servers, workers begin one after another
        self._begin_now: dict[str, asyncio.Event] = {}
        self._registered: Collection[_Key] = ()
        #: why servers cannot be used, as it was logged last
        self._unusable: dict[_Key, str] = {}
        self._slots: defaultdict[str, Slots] = defaultdict(
            lambda: Slots(settings.rollouts, SwapSlots(settings.swaps), asyncio.Semaphore(PREPARATIONS))
        )
        self._refresh_wanted = asyncio.Event()
        self._woken, self._has_room = asyncio.Event(), asyncio.Event()
        self.retired = False
        self._recorder = Recorder(pool)
        #: the workers by server, and those of each daemon in the order in which their servers were registered
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
        #: the servers whose first check a due deployment waits for
        self._awaited: set[str] = set()
        self._shares = Shares()
        self._share_wanted = asyncio.Event()
        self._joined = asyncio.Event()
        #: whether the last search left a deployment for now to the gateway that watches its engine
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
        is_awaited = worker.server_id in self._awaited  # a due deployment waits for this check
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
        # Thousands of engines may change one after another: search at once only if a deployment waits for this one.
        self.make_room() if is_awaited else self.wake()

    def _forget(self, worker: EngineWorker, identity: EngineIdentity | None) -> None:
        """Remove the worker from the workers of this daemon."""
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
            # One search answers all wakes that come during this pause. The pause is longer if nothing was claimed, so
            # that others get the processor. It is in proportion to the last search, which found nothing: on a busy
            # gateway, the claims before it may have taken much longer.
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
        """Claim due deployments, and start their rollouts. Return whether to search again at once."""
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
                    return True  # this gateway may now watch engines of the deployments that it left
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
        """Return the worker that claims the deployment, or None if this gateway does not claim it now."""
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
        """Let the first check of a server come before those of servers without a due deployment.

        Returns whether the server is going to be checked.
        """
        own = self._by_server.get(server_id)
        if own is None and server_id not in self._begin_now:
            return server_id in self._awaited  # True: its worker has begun, and checks it next. False: no such server
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
        """Compute the shares again if gateways came or went; return whether they did."""
        found = await members.select_members(connection)
        if self._shares.number not in found or found == self._shares.members:
            return False
        await self._share(connection, found)
        return True

    async def _share(self, connection: Connection, found: frozenset[int]) -> None:
        """Compute which engines this gateway watches, with `found` as the members."""
        if self._shares.number not in found:
            return  # this gateway is about to become a member
        unseen_after = timedelta(seconds=max(_UNSEEN_AFTER, self._missed(len(found))))
        unseen = await engines.select_unseen(connection, unseen_after) if len(found) > 1 else set()
        registered = [server_id for server_id, _ in self._registered if server_id is not None]
        for number, server_id in enumerate(self._shares.follow(found, registered, unseen, time.monotonic())):
            # One after another, since there may be thousands.
            asyncio.get_running_loop().call_later(number / _FIRST_CHECKS, self._share_changed, server_id)
        self._joined.set()

    def _missed(self, gateways: int) -> float:
        """Return the seconds that a few checks of each engine take, by so many gateways at their highest rate."""
        return _MISSED_CHECKS * len(self._registered) / gateways / _WATCHED_CHECKS

    def _share_changed(self, server_id: str) -> None:
        """Follow a change of whether this gateway watches a server."""
        if worker := self._by_server.get(server_id):
            worker.share_changed()
        elif self._shares.watches(server_id):
            self._begin(server_id)

    def _begin(self, server_id: str) -> bool:
        """Let the worker of a server begin now, if it waits to begin. Return whether it waited."""
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
            self._begin(server_id)  # the worker's task then sees that the pool is retired, and ends

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the workers until the block is left. Then retire them, and cancel those that do not end in time."""
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
            # A claim under way is given back. Workers without a rollout end by themselves.
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
            # Once the shares are known, the workers of this gateway's own share begin first.
            await asyncio.wait_for(self._joined.wait(), _MEMBERS_INTERVAL)
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
        """Run a worker for as long as its server is registered. After a failure, the next refresh starts it again.

        It begins after `after` seconds, or earlier: as soon as a deployment is due on its engine, or this gateway
        watches the engine.
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
        self._begin(server_id)  # a task that waits with older settings of the server then sees the change, and ends
        begin = self._begin_now[server_id] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await begin.wait()
        finally:
            if self._begin_now.get(server_id) is begin:
                del self._begin_now[server_id]
