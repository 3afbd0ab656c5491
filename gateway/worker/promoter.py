"""Promotes to each follower what the application that it follows has proven, and withdraws what is no longer true.

    proven ─▶ does the follower's registry have the digest? ─┬─▶ queued as REPOSITORY@DIGEST, or proposed
                                                             └─▶ waits, and is looked at again

The database rows are the truth, and every gateway reads them every few seconds. The lock of the follower's queue lets
gateways take turns. The gate `promotion` ensures that a follower never runs what is not proven, whatever happens here.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import structlog

from gateway.admin.promotions import find_promoted, following_of
from gateway.background import BackgroundTasks, isolate_failures
from gateway.model.errors import DatabaseUnavailable, NotFound, Unavailable
from gateway.model.promotions import Following, PromotionState
from gateway.model.reference import Digest, Reference
from gateway.model.soaks import Followed
from gateway.queue import promotion
from gateway.queue.promotion import Change
from gateway.registry.client import RegistryClient
from gateway.store import applications, promotions, soaks
from gateway.store.database import Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import PROMOTIONS

_LOG = structlog.get_logger()

_INTERVAL = 5.0  # seconds
_WHAT = {
    PromotionState.PROPOSED: "an image is proven and waits for you to promote it",
    PromotionState.WAITING: "an image is proven but cannot be promoted yet",
    PromotionState.QUEUED: "what it is about to run is no longer proven by the application that it follows",
    PromotionState.FAILED: "an image was not promoted",
}


class Promoter:
    """Promotes for all followers."""

    def __init__(self, pool: Pool, vault: Vault, registry: RegistryClient, alerts: AlertSink) -> None:
        self._pool = pool
        self._vault = vault
        self._registry = registry
        self._alerts = alerts

    async def promote_forever(self) -> None:
        while True:
            await self.promote_once()
            await asyncio.sleep(_INTERVAL)

    async def promote_once(self, now: datetime | None = None) -> None:
        """Promote once for all followers. `now` is the database's time unless it is given."""
        async with statement(self._pool) as connection:
            unsettled = await promotions.select_unsettled(connection)
            if not unsettled:  # as nearly always
                return
            now = now or await soaks.current_time(connection)
            rules = await promotions.select_followers(connection, unsettled)
        for application_id in unsettled:
            rule = rules.get(application_id)
            with isolate_failures("promotions", application_id):
                await self._review(application_id, None if rule is None else following_of(application_id, rule), now)

    async def _review(self, application_id: str, following: Following | None, now: datetime) -> None:
        async with transaction(self._pool) as connection:
            change = None
            if await promotions.select_open(connection, application_id) is not None:
                await applications.lock_row(connection, application_id)
                change = await promotion.review_open(connection, application_id, following, now)
            due = None if following is None else await promotion.select_due(connection, following, now)
        await self._tell(change)
        if following is not None and due is not None and due.serving is not None:
            await self._promote(following, due, due.serving, now)

    async def _promote(self, following: Following, followed: Followed, digest: Digest, now: datetime) -> None:
        try:
            reference, obstacle = await self._find(following, followed, digest)
            async with transaction(self._pool) as connection:
                change = await promotion.promote_due(
                    connection, following, digest, reference=reference, obstacle=obstacle, now=now
                )
        except NotFound:
            return  # the follower was deleted
        await self._tell(change)

    async def _find(self, following: Following, followed: Followed, digest: Digest) -> tuple[Reference | None, str]:
        """Return the follower's image by this digest, and what keeps it from being pulled, or ""."""
        try:
            async with statement(self._pool) as connection:
                application = await applications.select_application(connection, self._vault, following.application_id)
            return await find_promoted(
                self._pool, self._vault, self._registry, application, followed=followed, digest=digest
            )
        except DatabaseUnavailable:
            raise
        except Unavailable as error:  # no master key decrypts the login
            return None, str(error)

    async def _tell(self, change: Change | None) -> None:
        """Log and count a change, and send an alert of one that people should know."""
        if change is None:
            return
        one = change.promotion
        fields = {"application": one.application_id, "digest": one.digest, "reason": one.reason}
        _LOG.info("A promotion changed", state=one.state, deployment=one.deployment_id, **fields)
        PROMOTIONS.labels(one.state).inc()
        if not change.notifies:
            return
        async with statement(self._pool) as connection:
            names = await applications.select_names(connection, [one.application_id])
        lines = [one.reason, f"Digest: {one.digest}", f"Deployment: {one.deployment_id}" if one.deployment_id else ""]
        if one.state is PromotionState.PROPOSED:
            lines.append(f"To promote it: gateway promotions promote {one.application_id} --digest {one.digest}")
        name = names.get(one.application_id, one.application_id)
        self._alerts.send(Alert(f"{name}: {_WHAT.get(one.state, one.state)}", "\n".join(filter(None, lines))))


@asynccontextmanager
async def promoting(
    pool: Pool, vault: Vault, registry: RegistryClient, alerts: AlertSink, background_tasks: BackgroundTasks
) -> AsyncIterator[Promoter]:
    """Promote until the block is left."""
    promoter = Promoter(pool, vault, registry, alerts)
    async with background_tasks.running("promotions", promoter.promote_forever):
        yield promoter
