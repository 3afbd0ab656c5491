"""Advances the open releases, and begins those of gathered pushes. Every gateway does; each step is taken once."""

import asyncio
from contextlib import suppress

import structlog

from gateway.background import POLL_INTERVAL, isolate_failures
from gateway.model.releases import MemberState, ReleaseState
from gateway.model.sanitize import safe_line
from gateway.queue import release
from gateway.queue.release import Advanced
from gateway.store import groups, leases, release_deployments, releases
from gateway.store.database import Pool, statement
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import RELEASE_OUTCOMES, RELEASES

_LOG = structlog.get_logger()

_IDLE_INTERVAL = 5.0  # seconds, while there is nothing to advance: what begins sends a notification


class ReleaseCoordinator:
    """Looks at all open releases when one of their deployments has changed, and once a second while there is one."""

    def __init__(self, pool: Pool, alerts: AlertSink) -> None:
        self._pool = pool
        self._alerts = alerts
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at the releases now."""
        self._woken.set()

    async def advance_forever(self) -> None:
        while True:
            self._woken.clear()
            any_open = await self.advance_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL if any_open else _IDLE_INTERVAL):
                    await self._woken.wait()

    async def advance_all(self) -> bool:
        """Bring each open release as far as it can go now; return whether there is one, or one may be gathered."""
        async with statement(self._pool) as connection:
            if not await releases.select_any(connection):
                return False
            settled = await groups.select_settled(connection)
        for group_id in settled:
            with isolate_failures("releases", group_id):
                await release.gather(self._pool, group_id)
        async with statement(self._pool) as connection:
            open_ones = await releases.select_open(connection)
            await release_deployments.mark_held(connection, leases.HELD)
        for release_id in open_ones:
            with isolate_failures("releases", release_id):
                while (advanced := await release.advance(self._pool, release_id)) is not None and advanced.changed:
                    self._report(advanced)
        return True

    def _report(self, advanced: Advanced) -> None:
        before, why = advanced.before, advanced.reason
        fields = {"code": why.code, "reason": why.message, "remedy": why.remedy} if why else {}
        _LOG.info("A release goes on", release=before.release_id, name=before.name, state=advanced.after, **fields)
        if advanced.after in RELEASE_OUTCOMES:
            RELEASES.labels(advanced.after).inc()
        if advanced.after not in _OUTCOMES:
            return
        lines = [why.message, why.remedy, f"Code: {why.code}"] if why else []
        moved = [one.member.name for one in advanced.members if one.member.state is MemberState.MOVED]
        if moved and advanced.after is ReleaseState.PUTTING_BACK:
            lines.append(f"Had moved: {', '.join(moved)}")
        lines.append(f"Release: {before.release_id}")
        title = f"release of {before.name}: {_OUTCOMES[advanced.after]}"
        self._alerts.send(Alert(title, "\n".join(map(safe_line, lines))))


_OUTCOMES = {
    ReleaseState.PUTTING_BACK: "it is being put back",
    ReleaseState.PUT_BACK: "it was put back: every member runs what it ran before",
    ReleaseState.FAILED: "a person ended it before all of it was put back",
}
