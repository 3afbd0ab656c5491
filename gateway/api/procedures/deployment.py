"""deployment.*: what was asked, what became of it, step by step."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import ShortPaged, headers
from gateway.api.procedures._reason_rows import ReasonRow, select_names
from gateway.api.procedures._response import Moment, Response
from gateway.api.procedures._verdict_rows import VerdictRow
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.model.api_keys import Caller, Permission
from gateway.model.deployments import DOKPLOY_STATUS, Deployment, DokployStatus, Kind, Status, Step, StepRecord
from gateway.model.errors import Conflict
from gateway.queue import cancel
from gateway.store import deployments, gate_verdicts, steps, versions, watches
from gateway.store.database import Connection, transaction
from gateway.store.pagination import Page
from gateway.store.queue_position import Wait, select_wait, select_waits
from gateway.store.versions import KeptVersion

procedures = Procedures()

_LOG_TAIL = 1000  # characters of a log that lists show


class _Unused(Response):
    """Dokploy's fields without a meaning for an image."""

    pid: None
    compose_id: None
    server_id: None
    preview_deployment_id: None
    schedule_id: None
    backup_id: None
    volume_backup_id: None
    build_server_id: None


class StepRow(Response):
    """A step of a deployment."""

    step: Step
    detail: str
    started_at: Moment
    finished_at: Annotated[
        Moment | None, Field(description="Null while the step runs, or if the gateway was killed during it.")
    ]
    milliseconds: float | None

    @classmethod
    def from_record(cls, record: StepRecord) -> Self:
        return cls.make(record, milliseconds=round(record.seconds * 1000, 1) if record.finished_at else None)


class DeploymentRow(_Unused):
    """A deployment: Dokploy's fields, and the gateway's own."""

    deployment_id: str
    application_id: str
    title: str
    description: str
    status: Annotated[DokployStatus, Field(description="The state, in Dokploy's four words.")]
    state: Status
    kind: Kind
    reason: ReasonRow | None
    error_message: str | None
    image: str | None
    digest: str | None
    attempts: int
    log: Annotated[str, Field(description="Last lines of the failed container. Lists return only the end of them.")]
    log_path: str
    is_preview_deployment: bool
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    next_attempt_at: Moment
    superseded_by: str | None
    rolls_back_to: str | None
    release_id: Annotated[str | None, Field(description="The release that it belongs to.")]
    requested_by: Annotated[
        str | None,
        Field(
            description="Name of the API key, or the user on the command line. Null: a webhook, or the gateway itself."
        ),
    ]
    requested_by_key_id: str | None
    rollback_id: Annotated[
        str | None, Field(description="Id for rollback.rollback. Null if a rollback cannot restore this version.")
    ]
    steps: list[StepRow]

    @classmethod
    def from_deployment(
        cls,
        deployment: Deployment,
        records: Sequence[StepRecord],
        *,
        names: Mapping[str, str],
        kept: Collection[str] = (),
        whole: bool = False,
        **more: Any,
    ) -> Self:
        """Return the row, with the end of the log, or the whole log. `names` is of `select_names`."""
        status = DOKPLOY_STATUS[deployment.status]
        reason = ReasonRow.from_reason(deployment.reason, names) if deployment.reason else None
        return cls.make(
            deployment,
            status=status,
            reason=reason,
            error_message=reason.message if status == "error" and reason else None,
            image=str(deployment.reference) if deployment.reference else None,
            log=deployment.log if whole else deployment.log[-_LOG_TAIL:],
            log_path="",
            is_preview_deployment=False,
            requested_by=deployment.asked_by,
            requested_by_key_id=deployment.asked_key,
            rollback_id=deployment.deployment_id if deployment.deployment_id in kept else None,
            steps=[StepRow.from_record(record) for record in records],
            **more,
        )


class RollbackRow(Response):
    """A version that a rollback can restore."""

    rollback_id: Annotated[str, Field(description="Id of the deployment that ran this version.")]
    deployment_id: str
    version: Annotated[int, Field(description="Number of the version, counted from the application's first version.")]
    image: str
    created_at: Moment

    @classmethod
    def from_version(cls, version: KeptVersion) -> Self:
        return cls.make(version, rollback_id=version.deployment_id, version=version.number, image=str(version.image))


class QueuedDeployment(DeploymentRow):
    """A deployment, and what it waits for."""

    queue_position: Annotated[int | None, Field(description="1 is next. Null if the deployment does not wait.")]
    waits_for: str | None

    @classmethod
    def from_queue(cls, deployment: Deployment, records: Sequence[StepRecord], wait: Wait | None, **more: Any) -> Self:
        """Return the row, with what a waiting deployment waits for."""
        return cls.from_deployment(
            deployment,
            records,
            queue_position=wait.position if wait else None,
            waits_for=wait.waits_for if wait else None,
            **more,
        )


class GatedDeployment(QueuedDeployment):
    """A deployment, and what its gates answered."""

    gates: list[VerdictRow]


class WholeDeployment(GatedDeployment):
    """A deployment with the deliveries that caused it."""

    deliveries: Annotated[list[str], Field(description="Ids of the deliveries that caused or joined the deployment.")]
    watched_until: Annotated[
        Moment | None,
        Field(
            description="End of the monitor window. Trouble before it causes an automatic rollback. Null if no "
            "window is open."
        ),
    ]


class CancelledDeployment(Response):
    """A cancelled deployment. `state` is `running` while the gateway still puts the old container back."""

    deployment_id: str
    state: Status


class OfApplication(ShortPaged):
    application_id: Id


class Named(Input):
    deployment_id: Id


async def select_verdict_rows(connection: Connection, deployment_id: str) -> list[VerdictRow]:
    """Return what the gates of a deployment answered."""
    verdicts = await gate_verdicts.select_verdicts(connection, deployment_id)
    overrides = await gate_verdicts.select_overrides(connection, deployment_id)
    return [VerdictRow.from_verdict(one, overrides) for one in verdicts]


async def select_deployment_page(
    connection: Connection, caller: Caller, application_id: str, page: Page
) -> tuple[list[QueuedDeployment], dict[str, str]]:
    """Return a page of an application's deployments, newest first, and the header with the next cursor."""
    found = await deployments.select_deployments_of(connection, [application_id], page)
    records = await steps.select_steps(connection, [one.deployment_id for one in found])
    kept = await versions.select_kept(connection, application_id)
    waits = await select_waits(connection, found)
    names = await select_names(connection, caller, [one.reason for one in found])
    rows = [
        QueuedDeployment.from_queue(
            one, records[one.deployment_id], waits.get(one.deployment_id), names=names, kept=kept
        )
        for one in found
    ]
    return rows, headers(page.next(found, deployments.place))


@procedures.query("deployment.all", gives=list[QueuedDeployment])
async def select_all(context: Context, given: OfApplication) -> Answer:
    """List the deployments of an application, newest first.

    The list is empty if the application does not exist, as in Dokploy.
    """
    page = given.page
    async with transaction(context.pool) as connection:
        rows, following = await select_deployment_page(connection, context.caller, given.application_id, page)
    return Answer(rows, headers=following)


@procedures.query("deployment.one", gives=WholeDeployment)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a deployment with its steps, its deliveries and the answers of its gates."""
    async with transaction(context.pool) as connection:
        deployment = await deployments.select_deployment(connection, given.deployment_id)
        records = await steps.select_steps(connection, [given.deployment_id])
        deliveries = await deployments.select_deliveries_of(connection, given.deployment_id)
        until = await watches.select_window_end(connection, given.deployment_id)
        wait = await select_wait(connection, deployment)
        kept = await versions.select_kept(connection, deployment.application_id)
        gates = await select_verdict_rows(connection, given.deployment_id)
        names = await select_names(connection, context.caller, [deployment.reason])
    return Answer(
        WholeDeployment.from_queue(
            deployment,
            records[given.deployment_id],
            wait,
            names=names,
            kept=kept,
            whole=True,
            gates=gates,
            deliveries=list(deliveries),
            watched_until=until,
        )
    )


@procedures.mutation("deployment.cancel", gives=CancelledDeployment, raises=(Conflict,), needs=Permission.DEPLOY)
async def cancel_one(context: Context, given: Named) -> Answer:
    """Cancel a queued or running deployment.

    The answer has its state: cancelled, or running while the gateway still puts the old container back.
    """
    state = await cancel.cancel_deployment(context.pool, given.deployment_id)
    return Answer(CancelledDeployment.make(deployment_id=given.deployment_id, state=state))
