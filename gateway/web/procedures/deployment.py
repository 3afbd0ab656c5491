"""deployment.*: what was asked, what became of it, step by step."""

from collections.abc import Sequence
from typing import Any

from gateway import cancel
from gateway.deployments import DOKPLOY_STATUS, Deployment, StepRecord
from gateway.errors import Reason
from gateway.keys import Permission
from gateway.store import deployments, steps, waiting, watches
from gateway.store.database import transaction
from gateway.web.context import Context
from gateway.web.procedures._procedure import Answer, Id, Input, Procedure

# Columns of the contract that mean nothing for an image.
_EMPTY = dict.fromkeys(
    ("pid", "composeId", "serverId", "previewDeploymentId", "scheduleId", "backupId", "rollbackId",
     "volumeBackupId", "buildServerId")
)  # fmt: skip


class OfApplication(Input):
    application_id: Id


class Named(Input):
    deployment_id: Id


def shown_reason(reason: Reason | None) -> dict[str, str] | None:
    if reason is None:
        return None
    return {"code": reason.code, "message": reason.message, "remedy": reason.remedy}


def shown_step(record: StepRecord) -> dict[str, Any]:
    return {
        "step": record.step,
        "detail": record.detail,
        "startedAt": record.started_at.isoformat(),
        "finishedAt": record.finished_at.isoformat() if record.finished_at else None,
        "milliseconds": round(record.seconds * 1000, 1) if record.finished_at else None,
    }


def shown(deployment: Deployment, records: Sequence[StepRecord]) -> dict[str, Any]:
    """Return the contract's columns, and ours beside them."""
    failed = DOKPLOY_STATUS[deployment.status] == "error"
    return {
        **_EMPTY,
        "deploymentId": deployment.deployment_id,
        "applicationId": deployment.application_id,
        "title": deployment.title,
        "description": deployment.description,
        "status": DOKPLOY_STATUS[deployment.status],
        "state": deployment.status,
        "kind": deployment.kind,
        "reason": shown_reason(deployment.reason),
        "errorMessage": deployment.reason.message if failed and deployment.reason else None,
        "image": str(deployment.reference) if deployment.reference else None,
        "digest": deployment.digest,
        "attempts": deployment.attempts,
        "log": deployment.log,
        "logPath": "",
        "isPreviewDeployment": False,
        "createdAt": deployment.created_at.isoformat(),
        "startedAt": deployment.started_at.isoformat() if deployment.started_at else None,
        "finishedAt": deployment.finished_at.isoformat() if deployment.finished_at else None,
        "nextAttemptAt": deployment.next_attempt_at.isoformat(),
        "supersededBy": deployment.superseded_by,
        "rollsBackTo": deployment.rolls_back_to,
        "steps": [shown_step(record) for record in records],
    }


def shown_wait(wait: waiting.Wait | None) -> dict[str, Any]:
    """Return what is told of one that waits; of others, that they do not."""
    return {"queuePosition": wait.position if wait else None, "waitsFor": wait.waits_for if wait else None}


async def select_all(context: Context, given: OfApplication) -> Answer:
    """Newest first; an unknown application has none, as the contract has it."""
    async with transaction(context.pool) as connection:
        found = await deployments.select_deployments(connection, given.application_id)
        records = await steps.select_steps(connection, [one.deployment_id for one in found])
        waits = [shown_wait(await waiting.select_wait(connection, one)) for one in found]
    return Answer([{**shown(one, records[one.deployment_id]), **wait} for one, wait in zip(found, waits, strict=True)])


async def select_one(context: Context, given: Named) -> Answer:
    async with transaction(context.pool) as connection:
        deployment = await deployments.select_deployment(connection, given.deployment_id)
        records = await steps.select_steps(connection, [given.deployment_id])
        deliveries = await deployments.select_deliveries_of(connection, given.deployment_id)
        until = await watches.select_until(connection, given.deployment_id)
        wait = await waiting.select_wait(connection, deployment)
    return Answer(
        {
            **shown(deployment, records[given.deployment_id]),
            **shown_wait(wait),
            "deliveries": list(deliveries),
            "watchedUntil": until.isoformat() if until else None,
        }
    )


async def cancel_one(context: Context, given: Named) -> Answer:
    """Answer with its state: cancelled, or still running while it puts back what it has begun."""
    state = await cancel.cancel_deployment(context.pool, given.deployment_id)
    return Answer({"deploymentId": given.deployment_id, "state": state})


PROCEDURES = [
    Procedure("deployment.all", "query", OfApplication, select_all),
    Procedure("deployment.one", "query", Named, select_one),
    Procedure("deployment.cancel", "mutation", Named, cancel_one, needs=Permission.DEPLOY),
]
