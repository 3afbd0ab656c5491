"""Accept deliveries in batches: those that came while the previous batch was committed. A lone one waits for nobody.

One batch is committed at a time, on one connection, which is kept for a moment. While the database works on a batch,
the senders of the one before are answered, so each takes about half of the deliveries there are. `store.accept`
decides most deliveries of a batch in one statement. It leaves the others as they are, and `queue.ingest` decides each
of them in a transaction of its own.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.model.endpoints import Endpoint
from gateway.model.errors import DatabaseUnavailable, TransactionConflict, Unavailable
from gateway.model.events import Notification
from gateway.model.ids import new_id
from gateway.queue.ingest import QueuedDeployment, Receipt, delivery_key
from gateway.sources import redact_body
from gateway.store.accept import UNDECIDED, Acceptance, Delivery, RowIsLocked, accept
from gateway.store.database import Pool, repeat_on_conflict, statement

_MAX_DELIVERIES = 256  # of a batch
_MAX_PUSHES = 512  # of a batch
_MAX_BYTES = 4 << 20  # of the bodies of a batch with more than one delivery
_MAX_BATCHES = 4  # at a time
_SLOW = 0.2  # seconds after which a batch is not waited for
_LINGER = 0.1  # seconds for which the connection is kept when no delivery waits
_EXPIRY = 0.05  # seconds between two looks for what has waited too long
_MAX_PATHS = 10_000  # whose subscriptions are remembered
_TRIES = 7  # while an application is locked, or what subscribes to a path changes
_PAUSE = 0.005  # seconds before the third try for a locked application; each further one takes twice as long
_MAX_PUSHES_OF_DELIVERY = 20  # that is accepted in a batch
_MAX_NAME = 400  # characters of a repository in such a delivery


#: the message to a sender that is to try again
LATE = "the database does not answer in time: try again"

_LOG = structlog.get_logger()


#: what becomes of a delivery: how it was accepted, None where only `ingest_delivery` can decide it, or why it failed
Outcome = Receipt | Exception | None


@dataclass(slots=True, eq=False)
class _Waiting:
    delivery: Delivery
    answer: Callable[[Outcome], None]
    #: when its sender is asked to try again, by the clock of the loop
    until: float
    tries: int = 0
    in_batch: bool = False


class Acceptor:
    """Accepts the deliveries of one process. Each is answered after the commit of its batch, with its own outcome."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._loop, self._context = pool, asyncio.get_running_loop(), copy_context()
        #: in no batch yet, the first one first
        self._waiting: dict[_Waiting, None] = {}
        #: these, and those of the batches that are running
        self._unanswered: set[_Waiting] = set()
        self._look: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[Any] | None] = set()
        #: set by the one of these that waits for deliveries
        self._idle: asyncio.Future[None] | None = None
        #: what subscribes to the paths of repositories, as the database last said
        self._subscribed: OrderedDict[str, str] = OrderedDict()

    async def accept(
        self,
        endpoint: Endpoint,
        body: bytes,
        notification: Notification,
        headers: Mapping[str, str],
        *,
        within: float,
    ) -> Receipt | None:
        """Store a delivery and queue what it causes. Raises Unavailable, and stores nothing then.

        It is also raised after `within` seconds; what is stored later makes the sender's next attempt a duplicate.
        Returns None, and stores nothing, where the endpoint has changed since it was read, and where only
        `ingest_delivery` can decide what the delivery causes.
        """
        done: asyncio.Future[Receipt | None] = self._loop.create_future()

        def answer(outcome: Outcome) -> None:
            if done.done():
                return
            if isinstance(outcome, Exception):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)

        if not self.submit(endpoint, body, notification, headers, answer, within=within):
            return None
        return await done

    def submit(
        self,
        endpoint: Endpoint,
        body: bytes,
        notification: Notification,
        headers: Mapping[str, str],
        answer: Callable[[Outcome], None],
        *,
        within: float,
    ) -> bool:
        """Do as `accept` does, but pass the outcome to `answer`; return False where only `ingest_delivery` can decide.

        `answer` is called once, later, and not by the caller's task.
        """
        if not _is_simple(notification):
            return False
        key, valid_for = delivery_key(notification, body)
        delivery = Delivery(
            new_id(),
            endpoint.endpoint_id,
            endpoint.version,
            endpoint.source,
            key,
            valid_for,
            notification.may_repeat,
            headers,
            redact_body(body),
            notification.events,
            notification.ignored,
        )
        one = _Waiting(delivery, answer, self._loop.time() + within)
        self._unanswered.add(one)
        self._add(one)
        if self._look is None:
            self._look = self._loop.call_later(min(within, _EXPIRY), self._expire)
        return True

    def _add(self, one: _Waiting) -> None:
        """Let a delivery be in the next batch, unless its sender was asked to try again."""
        if one not in self._unanswered:
            return
        self._waiting[one] = None
        if self._idle is not None:
            self._stop_waiting(self._idle)
        elif not self._running:
            self._start()

    def _start(self) -> None:
        """Accept what waits, beside the batches that are running."""
        if self._waiting and len(self._running) < _MAX_BATCHES:
            # A batch belongs to no request.
            task = self._loop.create_task(self._accept_waiting(), name="accept", context=self._context.copy())
            self._running.add(task)

    async def _accept_waiting(self) -> None:
        try:
            while self._waiting:
                await self._accept_on_connection(self._next_batch())
        finally:
            # At once, not by a callback: a delivery that came before the callback would wait for this task in vain.
            self._running -= {asyncio.current_task()}

    async def _accept_on_connection(self, batch: list[_Waiting]) -> None:
        """Accept a batch and those that come soon after it, until one fails."""
        slow = self._loop.call_later(_SLOW, self._start)
        try:
            async with statement(self._pool) as connection:
                while batch:
                    accepted = await accept(connection, [one.delivery for one in batch], self._subscribed)
                    slow.cancel()
                    done, batch = batch, self._next_batch(after=len(batch))
                    if batch:
                        # Its statement is sent first, so that the database does not wait for us.
                        self._loop.call_soon(self._conclude, done, accepted)
                    else:
                        self._conclude(done, accepted)
                        batch = await self._wait_for_batch()
                    slow = self._loop.call_later(_SLOW, self._start)
        except TransactionConflict:
            await self._accept_batch(batch)
        except Exception as error:
            await self._accept_failed(batch, error)
        finally:
            slow.cancel()

    async def _wait_for_batch(self) -> list[_Waiting]:
        """Return the next batch; an empty one if none comes soon, or another task waits for it."""
        if self._idle is None and not self._waiting:
            self._idle = idle = self._loop.create_future()
            end = self._loop.call_later(_LINGER, self._stop_waiting, idle)
            try:
                await idle
            finally:
                end.cancel()
                if self._idle is idle:  # cancelled
                    self._idle = None
        return self._next_batch()

    def _stop_waiting(self, idle: asyncio.Future[None]) -> None:
        if idle is self._idle:
            self._idle = None
            idle.set_result(None)

    def _next_batch(self, *, after: int = 0) -> list[_Waiting]:
        """Return the next batch, which is stored while the senders of the `after` deliveries before it are answered.

        It is half of these and of those that wait: with unequal halves, first the database waits and then we do.
        """
        most = min(_MAX_DELIVERIES, (len(self._waiting) + after + 1) // 2 if after else _MAX_DELIVERIES)
        batch: list[_Waiting] = []
        size = 0
        pushes = 0
        for one in self._waiting:
            size += len(one.delivery.body)
            pushes += len(one.delivery.pushes)
            full = size > _MAX_BYTES or pushes > _MAX_PUSHES or len(batch) == most
            if batch and full:
                break
            batch.append(one)
        for one in batch:
            del self._waiting[one]
            one.in_batch = True
        return batch

    def _expire(self) -> None:
        """Ask the senders to try again that have waited too long."""
        now, self._look = self._loop.time(), None
        for one in [one for one in self._unanswered if one.until <= now]:
            self._waiting.pop(one, None)
            if one.in_batch:
                _LOG.info(
                    "A delivery is accepted after its sender was asked to try again", delivery=one.delivery.delivery_id
                )
            self._finish(one, DatabaseUnavailable(LATE))
        if self._unanswered:
            self._look = self._loop.call_later(_EXPIRY, self._expire)

    def _finish(self, one: _Waiting, outcome: Outcome) -> None:
        if one not in self._unanswered:
            return
        self._unanswered.remove(one)
        try:
            one.answer(outcome)
        except Exception:  # the others of its batch are answered nevertheless
            _LOG.exception("A sender is not answered", delivery=one.delivery.delivery_id)

    async def _accept_batch(self, batch: Sequence[_Waiting]) -> None:
        """Accept a batch by itself."""
        try:
            accepted = await repeat_on_conflict(lambda: self._store([one.delivery for one in batch]))
        except Exception as error:
            await self._accept_failed(batch, error)
        else:
            self._conclude(batch, accepted)

    async def _accept_failed(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Accept a batch that has failed. If not on the database, each half of it is tried by itself."""
        if isinstance(error, RowIsLocked):
            # It may stay locked for long. Alone, only the delivery that needs it waits.
            self._conclude(batch, [UNDECIDED] * len(batch))
        elif len(batch) <= 1 or isinstance(error, Unavailable):
            for one in batch:
                self._finish(one, error)
        else:
            half = len(batch) // 2
            await self._accept_batch(batch[:half])
            await self._accept_batch(batch[half:])

    def _conclude(self, batch: Sequence[_Waiting], accepted: Sequence[Acceptance]) -> None:
        """Answer the senders of a batch."""
        for one, acceptance in zip(batch, accepted, strict=True):
            if acceptance.again and one.tries < _TRIES:
                self._try_again(one, acceptance)
            else:
                self._finish(one, _receipt(one.delivery, acceptance))

    def _try_again(self, one: _Waiting, acceptance: Acceptance) -> None:
        """Let a delivery be in a later batch.

        A lock is waited for: a delivery that is decided by itself would hold it longer than a batch, against others.
        """
        one.in_batch = False
        one.tries += 1
        self._remember(acceptance)
        if acceptance.subscribed or one.tries == 1:
            self._add(one)
        else:
            self._loop.call_later(_PAUSE * 2 ** (one.tries - 2), self._add, one)

    async def _store(self, deliveries: Sequence[Delivery]) -> list[Acceptance]:
        async with statement(self._pool) as connection:
            return await accept(connection, deliveries, self._subscribed)

    def _remember(self, acceptance: Acceptance) -> None:
        for path, lines in acceptance.subscribed:
            self._subscribed[path] = lines
            self._subscribed.move_to_end(path)
            if len(self._subscribed) > _MAX_PATHS:
                self._subscribed.popitem(last=False)


def _receipt(delivery: Delivery, acceptance: Acceptance) -> Receipt | None:
    if acceptance.verdict is None:
        return None
    deployments = tuple([QueuedDeployment(*pair) for pair in acceptance.deployments])
    return Receipt(delivery.delivery_id, acceptance.duplicate_of, deployments, acceptance.ignored)


def _is_simple(notification: Notification) -> bool:
    for one in notification.events:
        if len(one.repository.domain) + len(one.repository.path) > _MAX_NAME:
            return False
    return len(notification.events) <= _MAX_PUSHES_OF_DELIVERY
