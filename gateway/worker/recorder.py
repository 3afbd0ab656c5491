"""Records which engines answer. All records that come during one transaction are written together in the next one."""

import asyncio
from collections.abc import Sequence

import structlog

from gateway.background import POLL_INTERVAL
from gateway.model.errors import Code, Unavailable
from gateway.store import engines, leases
from gateway.store.database import Pool, transaction
from gateway.store.engines import Place, Seen

_LOG = structlog.get_logger()

#: deployments that wait with these codes are retried when the engine recovers
_ENGINE_CODES = (Code.ENGINE_UNREACHABLE, Code.ENGINE_REFUSED)


class Recorder:
    """Writes for all engines of a gateway."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Seen, asyncio.Future[None]]] = []
        #: for an engine that answers as before, only the latest record of each place is written
        self._unchanged: dict[Place, Seen] = {}
        self._urgent = asyncio.Event()

    def record(self, seen: Seen) -> None:
        """Record soon that an engine answers, as it did before."""
        self._unchanged[Place(seen.engine_id, seen.server_id)] = seen

    async def record_now(self, seen: Seen) -> None:
        """Record that an engine answers, and return after the commit. Raises Unavailable."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((seen, done))
        self._urgent.set()
        await done

    async def run(self) -> None:
        """Write what there is to write."""
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._urgent.clear()
            waiting, self._waiting = self._waiting, []
            unchanged, self._unchanged = self._unchanged, {}
            if waiting:
                await self._write_waiting(waiting)
            if unchanged:
                await self._write_unchanged(list(unchanged.values()))

    async def _write_unchanged(self, seen: Sequence[Seen]) -> None:
        try:
            await self.write(seen)
        except Unavailable as error:  # the next checks say the same
            _LOG.warning("Which engines answer could not be recorded", error=str(error))

    async def _write_waiting(self, waiting: Sequence[tuple[Seen, "asyncio.Future[None]"]]) -> None:
        try:
            await self.write([seen for seen, _ in waiting])
        except Exception as error:
            if len(waiting) == 1:
                _fail(waiting[0][1], error)
                return
            middle = len(waiting) // 2  # halve until only the records that cannot be written fail
            await self._write_waiting(waiting[:middle])
            await self._write_waiting(waiting[middle:])
        except BaseException as error:
            for _, done in waiting:
                _fail(done, error)
            raise
        else:
            for _, done in waiting:
                if not done.done():
                    done.set_result(None)

    async def write(self, seen: Sequence[Seen]) -> None:
        """Write now that these engines answer."""
        recovered = {Place(one.engine_id, one.server_id) for one in seen if one.recovered}
        async with transaction(self._pool) as connection:
            await engines.upsert_seen(connection, seen)
            if recovered:
                await leases.wake_waiting(connection, recovered, _ENGINE_CODES)


def _fail(done: "asyncio.Future[None]", error: BaseException) -> None:
    if done.done():
        return
    if isinstance(error, asyncio.CancelledError):
        done.cancel()
    else:
        done.set_exception(error)
