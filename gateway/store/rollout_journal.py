"""The journal of a rollout, in PostgreSQL."""

import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from gateway.model.applications import Application
from gateway.model.deployments import Deployment, LeaseLost, Step, StepRecord, Swap
from gateway.model.errors import Unavailable
from gateway.model.reference import Digest
from gateway.store import leases, pulled_images, steps, swaps, versions
from gateway.store.database import Connection, Pool, statement, transaction, within
from gateway.store.encryption import Vault

_LOG = structlog.get_logger()
_AT_ONCE = timedelta(seconds=0.5)
_SWAP_WRITE_DEADLINE = 1.0  # seconds; inside a swap the containers matter more than the record


class PostgresJournal:
    """Implements deployments.Journal for one attempt. `lost` is set when another worker owns the deployment."""

    def __init__(self, pool: Pool, vault: Vault, deployment: Deployment, *, sure_until: float = 0.0) -> None:
        self._pool = pool
        self._vault = vault
        self._deployment = deployment
        self._records: list[StepRecord] = []
        self._unwritten: set[int] = set()
        self._unwritten_digest: Digest | None = None
        #: until when the lease certainly lasts, by the monotonic clock, which also counts while the process is frozen
        self._sure_until = sure_until
        self.lost = False

    @property
    def ended(self) -> list[StepRecord]:
        return [record for record in self._records if record.finished_at is not None]

    @property
    def step(self) -> Step | None:
        """The current step."""
        return self._records[-1].step if self._records else None

    async def begin(self, step: Step, detail: str = "") -> None:
        self.note_step(step, detail)
        await self.flush()

    async def progress(self, detail: str) -> None:
        if detail != self._records[-1].detail:
            self._replace(detail=detail)
            await self.flush()

    async def quick_progress(self, detail: str) -> None:
        if datetime.now(UTC) - self._records[-1].started_at > _AT_ONCE:
            await self.progress(detail)
        else:
            self._replace(detail=detail)

    def note_digest(self, digest: Digest) -> None:
        self._replace(detail=digest)
        self._unwritten_digest = digest

    async def record_pull(self, digest: Digest) -> None:
        row = self._deployment
        async with statement(self._pool) as connection:
            await self._own(pulled_images.insert_ahead(connection, row.deployment_id, row.epoch, digest))

    async def open_swap(self, swap: Swap, application: Application, *, longest_call: float) -> None:
        ran = versions.encrypt_swap_version(self._vault, application)
        async with statement(self._pool) as connection:
            await self._stretch(swaps.insert_swap(connection, swap, self._deployment.epoch, longest_call, ran))

    async def extend_lease(self, longest_call: float) -> None:
        row = self._deployment
        async with statement(self._pool) as connection:
            await self._stretch(leases.stretch_lease(connection, row.deployment_id, row.epoch, longest_call))

    async def ensure_lease(self) -> None:
        if self.lost:
            raise LeaseLost(self._deployment.deployment_id)
        if time.monotonic() < self._sure_until:
            return
        if not await self._if_possible(self.extend_lease(0), "Going on without asking who owns the deployment"):
            # While the database is unavailable, no gateway can claim the deployment. So do not ask again for a moment.
            self._sure_until = time.monotonic() + _SWAP_WRITE_DEADLINE

    async def _stretch(self, write: Coroutine[object, object, float | None]) -> None:
        """Renew the lease by `write`. A call to the engine may start while at least half of the lease is left."""
        asked_at, length = time.monotonic(), await write
        if self.lost or length is None:
            self.lost = True
            raise LeaseLost(self._deployment.deployment_id)
        self._sure_until = asked_at + length / 2

    async def record_reversal(self, swap: Swap) -> None:
        self.note_step(Step.PUT_BACK, swap.reason.message if swap.reason else "")
        # Putting back comes before the record: without it, the next owner sees the same failure and also puts back.
        await self._if_possible(self._turn_back(swap), "Putting back without a record")

    async def _turn_back(self, swap: Swap) -> None:
        async with transaction(self._pool) as connection:
            written = await self._write(connection)
            await self._own(swaps.update_swap(connection, swap, self._deployment.deployment_id, self._deployment.epoch))
        self._unwritten -= written

    def note_step(self, step: Step, detail: str = "") -> None:
        self.end()
        self._unwritten.add(len(self._records))
        self._records.append(StepRecord(step, detail, datetime.now(UTC), None))

    def end(self) -> None:
        """End the current step."""
        if self._records and self._records[-1].finished_at is None:
            self._replace(finished_at=datetime.now(UTC))

    async def close_swap(self) -> None:
        async with transaction(self._pool) as connection:
            await self._own(
                swaps.delete_swap(
                    connection,
                    self._deployment.application_id,
                    self._deployment.deployment_id,
                    self._deployment.epoch,
                )
            )

    async def flush(self, connection: Connection | None = None) -> None:
        """Write pending steps, in the caller's transaction if there is one."""
        if connection is not None:
            # The steps stay pending: the caller's transaction may be undone, and is then repeated.
            await self._write(connection)
            return
        digest = self._unwritten_digest
        async with statement(self._pool) as own:
            written = await self._write(own)
        self._unwritten -= written
        if self._unwritten_digest == digest:
            self._unwritten_digest = None

    async def flush_if_possible(self) -> None:
        """Write pending steps unless the database is unavailable."""
        await self._if_possible(self.flush(), "The journal waits for the database")

    async def close_swap_if_possible(self) -> None:
        """Delete the record of a completed swap; if the database is unavailable, the next attempt puts back again."""
        await self._if_possible(self.close_swap(), "The record of a swap stays open until the next attempt")

    async def extend_lease_if_possible(self, longest_call: float) -> None:
        await self._if_possible(self.extend_lease(longest_call), "Going on with a swap under the lease as it is")

    async def record_wait(self, waits_for: str) -> None:
        await self._if_possible(self._write_wait(waits_for), "What a rollout waits for could not be recorded")

    async def clear_wait(self) -> None:
        await self._if_possible(self._write_wait(None), "The end of a wait could not be recorded")

    async def _write_wait(self, waits_for: str | None) -> None:
        async with statement(self._pool) as connection:
            await self._own(
                leases.update_wait(connection, self._deployment.deployment_id, self._deployment.epoch, waits_for)
            )

    async def _if_possible(self, write: Coroutine[object, object, None], otherwise: str) -> bool:
        """Write within a second, and return True; or log `otherwise` and return False. Raises only LeaseLost.

        The containers matter more than the record, so the database never stops a swap that has started.
        """
        try:
            await within(_SWAP_WRITE_DEADLINE, write)
        except LeaseLost:
            raise
        except Unavailable as error:
            _LOG.warning(otherwise, error=str(error))
        except Exception:
            _LOG.exception(otherwise)
        else:
            return True
        return False

    def _replace(self, *, detail: str | None = None, finished_at: datetime | None = None) -> None:
        last = len(self._records) - 1
        record = self._records[last]
        self._records[last] = replace(
            record,
            detail=record.detail if detail is None else detail,
            finished_at=finished_at or record.finished_at,
        )
        self._unwritten.add(last)

    async def _write(self, connection: Connection) -> set[int]:
        """Write the pending digest and steps; return the numbers of the steps."""
        row = self._deployment
        if self._unwritten_digest is not None:
            await self._own(
                pulled_images.insert_pulled(connection, row.deployment_id, row.epoch, self._unwritten_digest)
            )
        written = {number: self._records[number] for number in sorted(self._unwritten)}
        if written:
            await self._own(steps.upsert_steps(connection, row.deployment_id, row.epoch, written))
        return set(written)

    async def _own(self, write: Coroutine[object, object, bool]) -> None:
        if self.lost:
            write.close()
        elif not await write:
            self.lost = True
        if self.lost:
            raise LeaseLost(self._deployment.deployment_id)
