"""Start and complete queued deployments without a rollout."""

from gateway.model.deployments import Deployment, Outcome, Status
from gateway.model.errors import Code, Reason
from gateway.store import deployments
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import completion
from tests.support.api_client import VAULT, Web


async def begin(web: Web) -> list[Deployment]:
    """Claim all queued deployments and return them."""
    async with web.pool.acquire() as connection:
        claimed = await connection.fetch(
            """
            UPDATE deployments SET status = 'running', started_at = now(), claimed_by = 'g', lease_until = now()
             WHERE status = 'queued'
            RETURNING deployment_id
            """
        )
        return [await deployments.select_deployment(connection, row["deployment_id"]) for row in claimed]


async def conclude(
    web: Web, status: Status = Status.SUCCEEDED, code: Code | None = None, *, message: str = "so it was", log: str = ""
) -> None:
    """Complete all queued deployments with this status."""
    outcome = Outcome(status, Reason(code, message) if code else None, log)
    for one in await begin(web):
        assert await completion.complete(
            web.pool, VAULT, one, PostgresJournal(web.pool, VAULT, one), outcome, monitor_window=0.0
        )
