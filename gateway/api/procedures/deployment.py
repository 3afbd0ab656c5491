"""deployment.*: what was asked, what became of it, step by step."""

from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import ShortPaged, headers
from gateway.api.rpc.procedure import Answer, Moment, Procedures
from gateway.model.api_keys import Permission
from gateway.model.deployments import DOKPLOY_STATUS, Deployment, DokployStatus, Kind, Status, Step, StepRecord
from gateway.model.errors import Code, Conflict, Reason
from gateway.queue import cancel
from gateway.store import deployments, queue_position, steps, versions, watches
from gateway.store.database import Connection, transaction
from gateway.store.pagination import Page
from gateway.store.versions import KeptVersion

procedures = Procedures()

_LOG_END = 1000  # characters of a log that lists show


class _Empty(TypedDict):
    pid: None
    composeId: None
    serverId: None
    previewDeploymentId: None
    scheduleId: None
    backupId: None
    volumeBackupId: None
    buildServerId: None


# Columns of the contract that mean nothing for an image.
_EMPTY: _Empty = {
    "pid": None,
    "composeId": None,
    "serverId": None,
    "previewDeploymentId": None,
    "scheduleId": None,
    "backupId": None,
    "volumeBackupId": None,
    "buildServerId": None,
}


class ReasonRow(TypedDict):
    """Why a deployment is where it is, and what to do."""

    code: Code
    message: str
    remedy: str


class StepRow(TypedDict):
    """A step as it went."""

    step: Step
    detail: str
    startedAt: Moment
    finishedAt: Annotated[Moment | None, Field(description="Null while it goes on.")]
    milliseconds: float | None


class DeploymentRow(_Empty):
    """One attempt to make an application run what it should: the contract's columns, and ours beside them."""

    deploymentId: str
    applicationId: str
    title: str
    description: str
    status: Annotated[DokployStatus, Field(description="The state, in the contract's four words.")]
    state: Status
    kind: Kind
    reason: ReasonRow | None
    errorMessage: str | None
    image: str | None
    digest: str | None
    attempts: int
    log: Annotated[
        str, Field(description="The last lines of the container that failed; in lists the end of them, and no more.")
    ]
    logPath: str
    isPreviewDeployment: bool
    createdAt: Moment
    startedAt: Moment | None
    finishedAt: Moment | None
    nextAttemptAt: Moment
    supersededBy: str | None
    rollsBackTo: str | None
    requestedBy: Annotated[
        str | None,
        Field(description="The key's name, or the user on the command line; null: a webhook, or the gateway itself."),
    ]
    requestedByKeyId: str | None
    rollbackId: Annotated[str | None, Field(description="Where what it ran can be gone back to: rollback.rollback.")]
    steps: list[StepRow]


class RollbackRow(TypedDict):
    """A version that can be gone back to."""

    rollbackId: Annotated[str, Field(description="The id of the deployment that ran it.")]
    deploymentId: str
    version: Annotated[int, Field(description="Counted from the application's first.")]
    image: str
    createdAt: Moment


class WaitRow(TypedDict):
    """What one waits for."""

    queuePosition: Annotated[int | None, Field(description="1 is next; null where it does not wait.")]
    waitsFor: str | None


class QueuedDeployment(DeploymentRow, WaitRow):
    """A deployment, and what it waits for."""


class WholeDeployment(QueuedDeployment):
    """A deployment with where it came from."""

    deliveries: Annotated[list[str], Field(description="The ids of those that caused or joined it.")]
    watchedUntil: Annotated[Moment | None, Field(description="Trouble until then brings the former version back.")]


class CancelledDeployment(TypedDict):
    """Its state: cancelled, or still running while it puts back what it has begun."""

    deploymentId: str
    state: Status


class OfApplication(ShortPaged):
    application_id: Id


class Named(Input):
    deployment_id: Id


def shown_reason(reason: Reason | None) -> ReasonRow | None:
    if reason is None:
        return None
    return {"code": reason.code, "message": reason.message, "remedy": reason.remedy}


def shown_step(record: StepRecord) -> StepRow:
    return {
        "step": record.step,
        "detail": record.detail,
        "startedAt": record.started_at.isoformat(),
        "finishedAt": record.finished_at.isoformat() if record.finished_at else None,
        "milliseconds": round(record.seconds * 1000, 1) if record.finished_at else None,
    }


def shown(
    deployment: Deployment, records: Sequence[StepRecord], *, kept: Collection[str] = (), whole: bool = False
) -> DeploymentRow:
    """Return the contract's columns, and ours beside them; of the log the end, unless it is shown as a whole."""
    status = DOKPLOY_STATUS[deployment.status]
    return {
        **_EMPTY,
        "deploymentId": deployment.deployment_id,
        "applicationId": deployment.application_id,
        "title": deployment.title,
        "description": deployment.description,
        "status": status,
        "state": deployment.state,
        "kind": deployment.kind,
        "reason": shown_reason(deployment.reason),
        "errorMessage": deployment.reason.message if status == "error" and deployment.reason else None,
        "image": str(deployment.reference) if deployment.reference else None,
        "digest": deployment.digest,
        "attempts": deployment.attempts,
        "log": deployment.log if whole else deployment.log[-_LOG_END:],
        "logPath": "",
        "isPreviewDeployment": False,
        "createdAt": deployment.created_at.isoformat(),
        "startedAt": deployment.started_at.isoformat() if deployment.started_at else None,
        "finishedAt": deployment.finished_at.isoformat() if deployment.finished_at else None,
        "nextAttemptAt": deployment.next_attempt_at.isoformat(),
        "supersededBy": deployment.superseded_by,
        "rollsBackTo": deployment.rolls_back_to,
        "requestedBy": deployment.asked_by,
        "requestedByKeyId": deployment.asked_key,
        "rollbackId": deployment.deployment_id if deployment.deployment_id in kept else None,
        "steps": [shown_step(record) for record in records],
    }


def shown_wait(wait: queue_position.Wait | None) -> WaitRow:
    """Return what is told of one that waits; of others, that they do not."""
    return {"queuePosition": wait.position if wait else None, "waitsFor": wait.waits_for if wait else None}


def shown_version(version: KeptVersion) -> RollbackRow:
    return {
        "rollbackId": version.deployment_id,
        "deploymentId": version.deployment_id,
        "version": version.number,
        "image": str(version.image),
        "createdAt": version.created_at.isoformat(),
    }


async def listed(
    connection: Connection, application_id: str, page: Page
) -> tuple[list[QueuedDeployment], dict[str, str]]:
    """Return a page of those of an application, the newest first, and the header that tells where the next begins."""
    found = await deployments.select_deployments_of(connection, [application_id], page)
    records = await steps.select_steps(connection, [one.deployment_id for one in found])
    kept = await versions.select_kept(connection, application_id)
    rows: list[QueuedDeployment] = [
        {
            **shown(one, records[one.deployment_id], kept=kept),
            **shown_wait(await queue_position.select_wait(connection, one)),
        }
        for one in found
    ]
    return rows, headers(page.next(found, deployments.place))


@procedures.query("deployment.all", gives=list[QueuedDeployment])
async def select_all(context: Context, given: OfApplication) -> Answer:
    """Newest first; an unknown application has none, as the contract has it."""
    page = given.page
    async with transaction(context.pool) as connection:
        rows, following = await listed(connection, given.application_id, page)
    return Answer(rows, headers=following)


@procedures.query("deployment.one", gives=WholeDeployment)
async def select_one(context: Context, given: Named) -> Answer:
    """Return one, with its steps and where it came from."""
    async with transaction(context.pool) as connection:
        deployment = await deployments.select_deployment(connection, given.deployment_id)
        records = await steps.select_steps(connection, [given.deployment_id])
        deliveries = await deployments.select_deliveries_of(connection, given.deployment_id)
        until = await watches.select_window_end(connection, given.deployment_id)
        wait = await queue_position.select_wait(connection, deployment)
        kept = await versions.select_kept(connection, deployment.application_id)
    return Answer(
        {
            **shown(deployment, records[given.deployment_id], kept=kept, whole=True),
            **shown_wait(wait),
            "deliveries": list(deliveries),
            "watchedUntil": until.isoformat() if until else None,
        }
    )


@procedures.mutation("deployment.cancel", gives=CancelledDeployment, raises=(Conflict,), needs=Permission.DEPLOY)
async def cancel_one(context: Context, given: Named) -> Answer:
    """Answer with its state: cancelled, or still running while it puts back what it has begun."""
    state = await cancel.cancel_deployment(context.pool, given.deployment_id)
    return Answer({"deploymentId": given.deployment_id, "state": state})
