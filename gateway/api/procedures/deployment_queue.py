"""deployment.*: list, read, cancel and delete deployments."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input, Words
from gateway.api.procedures._pagination import ShortPaged, headers
from gateway.api.procedures._reason_rows import ReasonRow, select_names
from gateway.api.procedures._response import Response
from gateway.api.procedures.deployment import (
    DeploymentRow,
    Named,
    QueuedDeployment,
    RollbackRow,
    select_deployment_page,
)
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.api_keys import Permission
from gateway.model.deployments import Deployment, Kind, Status, StepRecord
from gateway.model.errors import Conflict
from gateway.queue import cancel, history
from gateway.store import (
    application_summaries,
    deployments,
    environments,
    queue,
    queue_position,
    resource_owners,
    steps,
    versions,
)
from gateway.store.database import Connection, statement, transaction
from gateway.store.deployment_search import DeploymentFilter, select_matching

procedures = Procedures()

_Kind = Literal[
    "application", "compose", "server", "schedule", "previewDeployment", "backup", "volumeBackup"
]  # the contract's; only the first has any here


class OfKind(ShortPaged):
    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: _Kind = "application"


class OfAll(ShortPaged):
    """Which deployments to list; without a filter, all."""

    q: Annotated[Words, Field(description="Part of the application's name, or of the image.")] = ""
    state: Status | None = None
    kind: Kind | None = None
    application_id: Id | None = None
    project_id: Id | None = None

    @property
    def wanted(self) -> DeploymentFilter:
        return DeploymentFilter(self.q.strip(), self.state, self.kind, self.application_id, self.project_id)


class Read(Named):
    tail: Annotated[int, Field(ge=1, le=10_000)] = 100


class WithVersion(QueuedDeployment):
    """A deployment, and the version that a rollback restores."""

    rollback: RollbackRow | None


class PlaceRow(Response):
    """The environment and the project of an application."""

    environment_id: str
    name: str
    project: dict[Literal["projectId", "name"], str]


class OwnerRow(Response):
    """The application of a deployment, with its environment."""

    application_id: str
    name: str
    app_name: str
    environment: PlaceRow


class CentralRow(DeploymentRow):
    """A deployment with its application."""

    application: OwnerRow
    compose: None
    server: None


class ServicePath(Response):
    """The page of the application in Dokploy's user interface."""

    href: str
    label: str


class JobRow(Response):
    """A queued or running deployment, in the format of Dokploy's queue."""

    id: str
    name: Literal["deployments"]
    data: dict[str, Any]
    timestamp: Annotated[int, Field(description="Unix time in milliseconds.")]
    processed_on: Annotated[int | None, Field(description="Unix time in milliseconds.")]
    finished_on: None
    failed_reason: str | None
    state: Literal["waiting", "active"]
    service_path: ServicePath


@procedures.query("deployment.allByType", gives=list[WithVersion])
async def select_by_type(context: Context, given: OfKind) -> Answer:
    """List the deployments of an application, newest first, each with the version that a rollback restores.

    The list is empty for every `type` other than application.
    """
    if given.type != "application":
        return Answer([])
    page = given.page
    async with transaction(context.pool) as connection:
        rows, following = await select_deployment_page(connection, context.caller, given.id, page)
        kept = await versions.select_kept(connection, given.id)
    found = {deployment_id: RollbackRow.from_version(one) for deployment_id, one in kept.items()}
    return Answer([WithVersion.make(row, rollback=found.get(row.deployment_id)) for row in rows], headers=following)


async def _owners(connection: Connection, application_ids: list[str]) -> dict[str, OwnerRow]:
    named = {
        one.application_id: one
        for one in await application_summaries.select_named(connection, list(set(application_ids)))
    }
    places = await environments.select_places(connection, {one.environment_id for one in named.values()})
    owners: dict[str, OwnerRow] = {}
    for application_id, member in named.items():
        place = places[member.environment_id]
        owners[application_id] = OwnerRow.make(
            member,
            environment=PlaceRow.make(place, project={"projectId": place.project_id, "name": place.project_name}),
        )
    return owners


@procedures.query("deployment.allCentralized", gives=list[CentralRow], access=KeyAccess.FILTERED)
async def select_central(context: Context, given: OfAll) -> Answer:
    """List the deployments of all applications, newest first.

    A restricted key gets only those of its own applications. With a filter, a page can have few rows while more
    rows remain.
    """
    page, grants, wanted = given.page, context.caller.grants, given.wanted
    async with transaction(context.pool) as connection:
        only = None if grants is None else await resource_owners.select_covered(connection, grants)
        if wanted != DeploymentFilter():
            found, following = await select_matching(connection, wanted, page, only=only)
        else:
            if only is None:
                found = await deployments.select_deployments(connection, page)
            else:
                found = await deployments.select_deployments_of(connection, only, page)
            following = page.next(found, deployments.place)
        records = await steps.select_steps(connection, [one.deployment_id for one in found])
        owners = await _owners(connection, [one.application_id for one in found])
        names = await select_names(connection, context.caller, [one.reason for one in found])
    return Answer(
        [
            CentralRow.from_deployment(
                one, records[one.deployment_id], names=names, application=owners[one.application_id]
            )
            for one in found
            if one.application_id in owners
        ],
        headers=headers(following),
    )


@procedures.query("deployment.queueList", gives=list[JobRow], access=KeyAccess.FILTERED)
async def select_queue(context: Context, _given: Input) -> Answer:
    """List queued and running deployments, oldest first.

    A restricted key gets only those of its own applications.
    """
    async with transaction(context.pool) as connection:
        only = (
            await resource_owners.select_covered(connection, context.caller.grants) if context.caller.grants else None
        )
        found = await queue.select_pending(connection, only=only)
        owners = await _owners(connection, [one.application_id for one in found])
    return Answer([_job(one, owners[one.application_id]) for one in found if one.application_id in owners])


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _job(deployment: Deployment, owner: OwnerRow) -> JobRow:
    place = owner.environment
    reason = deployment.reason
    return JobRow.make(
        id=deployment.deployment_id,
        data={
            "applicationId": deployment.application_id,
            "titleLog": deployment.title,
            "descriptionLog": deployment.description,
            "type": deployment.kind,
            "applicationType": "application",
            "server": False,
        },
        timestamp=_milliseconds(deployment.requested_at),
        processed_on=_milliseconds(deployment.started_at) if deployment.started_at else None,
        failed_reason=reason.message if reason else None,
        state="active" if deployment.state is Status.RUNNING else "waiting",
        service_path=ServicePath.make(
            href=f"/dashboard/project/{place.project['projectId']}/environment/{place.environment_id}"
            f"/services/application/{deployment.application_id}",
            label=owner.name,
        ),
    )


@procedures.query("deployment.readLogs", gives=str)
async def read_logs(context: Context, given: Read) -> Answer:
    """Return the log of a deployment as text.

    It has the steps, the reason for the outcome, and the last lines of the failed container.
    """
    async with transaction(context.pool) as connection:
        deployment = await deployments.select_deployment(connection, given.deployment_id)
        records = await steps.select_steps(connection, [given.deployment_id])
        wait = await queue_position.select_wait(connection, deployment)
        names = await select_names(connection, context.caller, [deployment.reason])
    lines = [_step_line(record) for record in records[given.deployment_id]]
    if wait is not None:
        lines.append(f"waits for {wait.waits_for}")
    if deployment.reason is not None:
        reason = ReasonRow.from_reason(deployment.reason, names)
        lines += [f"{reason.code}: {reason.message}", reason.remedy]
    if deployment.finished_at is not None:
        lines.append(f"{_at(deployment.finished_at)} {deployment.status}")
    lines += deployment.log.splitlines()
    return Answer("".join(f"{line}\n" for line in lines[-given.tail :]))


def _at(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")


def _step_line(record: StepRecord) -> str:
    took = "" if record.finished_at is None else f" ({record.seconds:.1f} s)"
    return f"{_at(record.started_at)} {record.step}{' ' if record.detail else ''}{record.detail}{took}"


@procedures.mutation("deployment.killProcess", gives=None, raises=(Conflict,), needs=Permission.DEPLOY)
async def kill(context: Context, given: Named) -> Answer:
    """Cancel a queued or running deployment.

    If the rollout has begun, the gateway puts the old container back.
    """
    await cancel.cancel_deployment(context.pool, given.deployment_id)
    return Answer()


@procedures.mutation("deployment.removeDeployment", gives=DeploymentRow, raises=(Conflict,))
async def remove(context: Context, given: Named) -> Answer:
    """Delete an ended deployment, and return it.

    You cannot delete the deployment that serves.
    """
    deleted = await history.delete_deployment(context.pool, given.deployment_id)
    async with statement(context.pool) as connection:
        names = await select_names(connection, context.caller, [deleted.reason])
    return Answer(DeploymentRow.from_deployment(deleted, [], names=names))
