"""gate.*: what deployments must pass before their image is pulled."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import orjson
from pydantic import Field

from gateway.admin import gate_checks, gate_overrides
from gateway.admin import gates as admin
from gateway.admin.context import Context
from gateway.admin.gate_checks import Opening
from gateway.admin.inputs import Id, Input, Text
from gateway.api.procedures._gate_rows import GateRow, PlacedGate
from gateway.api.procedures._response import Moment, Response
from gateway.api.procedures._verdict_rows import GateAnswer, VerdictWord
from gateway.api.procedures.application_deploy import refuse_another_repository
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.gates import vulnerabilities
from gateway.gates.gate import Sources
from gateway.model.api_keys import Permission
from gateway.model.errors import Conflict, NotFound, Throttled, Unavailable
from gateway.model.gates import Level, Verdict
from gateway.store import applications, deployments, gate_verdicts, gates, scan_reports
from gateway.store.database import statement, transaction
from gateway.store.gates import Owner

procedures = Procedures()

_OWNERS = frozenset({"application_id", "environment_id", "project_id"})
_Rule = Annotated[dict[str, Any], Field(description="Its fields depend on the kind; see docs/gates.md.")]
_Secret = Annotated[Text | None, Field(description="What the rule needs and must not show. It is never returned.")]


class OfOwner(Input):
    application_id: Id | None = None
    environment_id: Id | None = None
    project_id: Id | None = None

    @property
    def owner(self) -> Owner:
        """Raises InvalidInput unless exactly one is named."""
        return admin.owner_of(
            application_id=self.application_id, environment_id=self.environment_id, project_id=self.project_id
        )


class Create(OfOwner):
    kind: Annotated[str, Field(max_length=100)]
    name: Annotated[str | None, Field(max_length=100, description="Default: the kind.")] = None
    rule: _Rule = Field(default_factory=dict)
    secret: _Secret = None
    enabled: Annotated[bool, Field(description="False: turns off the inherited gate of this name.")] = True
    required: Annotated[bool, Field(description="A nearer gate of this name neither replaces it nor turns it off.")] = (
        False
    )


class Named(Input):
    gate_id: Id


class Update(Named):
    name: Annotated[str | None, Field(max_length=100)] = None
    rule: Annotated[dict[str, Any] | None, Field(description="Replaces the whole rule.")] = None
    secret: _Secret = None
    enabled: bool | None = None
    required: bool | None = None


class OfApplication(Input):
    application_id: Id


class OfDeployment(Input):
    deployment_id: Id


class Check(OfApplication):
    image: Annotated[str | None, Field(max_length=1000, description="Default: the application's image.")] = None


class Override(Input):
    deployment_id: Id
    name: Annotated[str, Field(max_length=128, description="Name or id of the gate.")]
    reason: Annotated[str, Field(max_length=2000, description="Why. It is kept in the audit.")]


class CheckedImage(Response):
    """What the gates answer about an image now."""

    image: Annotated[str, Field(description="The image, with the digest that its tag names now.")]
    verdict: Annotated[VerdictWord, Field(description="Passed when all gates pass, refused when one refuses.")]
    gates: list[GateAnswer]


class OpeningRow(Response):
    """When a gate about time opens."""

    gate_id: str
    name: str
    kind: str
    open: bool
    opens_at: Annotated[Moment | None, Field(description="Now where it is open; null: never.")]


class Openings(Response):
    """When the gates about time open."""

    opens_at: Annotated[Moment | None, Field(description="When all of them are open together; null: never.")]
    gates: list[OpeningRow]

    @classmethod
    def from_openings(cls, found: Sequence[Opening], together: datetime | None) -> Self:
        rows = [
            OpeningRow.make(
                gate_id=one.setting.gate_id,
                name=one.setting.name,
                kind=one.setting.kind,
                open=one.is_open,
                opens_at=one.opens_at,
            )
            for one in found
        ]
        return cls.make(opens_at=together, gates=rows)


class CreatedGate(GateRow):
    """A gate, and the secret that was made for it."""

    secret: Annotated[str | None, Field(description="Shown once: what requests of this gate are signed with.")] = None


class Overridden(Response):
    """The deployment that may pass: the same, or a new one where the gate had ended it."""

    deployment_id: str


@procedures.mutation("gate.create", gives=CreatedGate, raises=(Conflict,), authorized_by=_OWNERS)
async def create(context: Context, given: Create) -> Answer:
    """Set a gate on an application, an environment or a project.

    Deployments that wait at a gate are asked again at once. A gate of kind external gets a secret where none is given.
    """
    made = await admin.create(
        context.pool,
        context.vault,
        given.owner,
        kind=given.kind,
        name=given.name,
        rule=given.rule,
        secret=given.secret,
        enabled=given.enabled,
        required=given.required,
        grants=context.caller.grants,
    )
    return Answer(CreatedGate.from_setting(made, secret=made.secret if given.secret is None else None))


@procedures.query("gate.all", gives=list[PlacedGate], authorized_by=_OWNERS)
async def select_all(context: Context, given: OfOwner) -> Answer:
    """List the gates of an application, an environment or a project, with those that it inherits."""
    async with statement(context.pool) as connection:
        found = await admin.select_placed(connection, context.vault, given.owner)
    return Answer([PlacedGate.from_setting(one.setting, applies=one.applies) for one in found])


@procedures.query("gate.one", gives=GateRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a gate."""
    async with transaction(context.pool) as connection:
        return Answer(GateRow.from_setting(await gates.select_gate(connection, context.vault, given.gate_id)))


@procedures.mutation("gate.update", gives=GateRow, raises=(Conflict,))
async def update(context: Context, given: Update) -> Answer:
    """Update a gate, and return it.

    Absent fields stay unchanged. A changed rule is asked anew: no earlier verdict holds for it.
    """
    changed = await admin.update(
        context.pool,
        context.vault,
        given.gate_id,
        name=given.name,
        rule=given.rule,
        secret=given.secret,
        enabled=given.enabled,
        required=given.required,
        grants=context.caller.grants,
    )
    return Answer(GateRow.from_setting(changed))


@procedures.mutation("gate.remove", gives=GateRow)
async def remove(context: Context, given: Named) -> Answer:
    """Remove a gate, and return it as it was."""
    return Answer(GateRow.from_setting(await admin.remove(context.pool, context.vault, given.gate_id)))


def checked_row(done: gate_checks.Check) -> CheckedImage:
    verdicts = {one.decision.verdict for one in done.answers}
    worst = next((one for one in (Verdict.REFUSED, Verdict.UNKNOWN) if one in verdicts), Verdict.PASSED)
    gates = [GateAnswer.from_answer(one) for one in done.answers]
    return CheckedImage.make(image=str(done.reference), verdict=worst, gates=gates)


@procedures.mutation("gate.check", gives=CheckedImage, raises=(Throttled, Unavailable), needs=Permission.DEPLOY)
async def check(context: Context, given: Check) -> Answer:
    """Check an image with the gates of an application, without deploying it.

    One check of an application runs at a time.
    """
    if given.image is not None:
        async with statement(context.pool) as connection:
            application = await applications.select_application(connection, context.vault, given.application_id)
        refuse_another_repository(context.caller, application, given.image)
    sources = Sources(context.pool, context.vault, context.registry, context.settings)
    return Answer(checked_row(await gate_checks.check(sources, given.application_id, given.image)))


@procedures.query("gate.report", gives=dict[str, Any], raises=(NotFound,))
async def select_report(context: Context, given: OfDeployment) -> Answer:
    """Return the last report of a vulnerability scanner on the image of a deployment, as the scanner wrote it."""
    async with statement(context.pool) as connection:
        digest = (await deployments.select_deployment(connection, given.deployment_id)).digest
        verdicts = await gate_verdicts.select_verdicts(connection, given.deployment_id)
        # Of an image for several platforms, what was scanned are those that may run.
        scans = [one.evidence for one in verdicts if one.kind == vulnerabilities.GATE.kind]
        scanned = [digest for evidence in scans for digest in evidence.get("scanned", ())]
        found = await scan_reports.select_newest(connection, [*scanned, *filter(None, [digest])])
    if found is None:
        raise NotFound("Report not found: no scanner was asked about this image, or its report has expired")
    return Answer(orjson.loads(found))


@procedures.query("gate.next", gives=Openings)
async def select_next(context: Context, given: OfApplication) -> Answer:
    """Return when the gates about time of an application open."""
    async with statement(context.pool) as connection:
        placed = await admin.select_placed(connection, context.vault, Owner(Level.APPLICATION, given.application_id))
    found, together = gate_checks.next_openings([one.setting for one in placed if one.applies], datetime.now(UTC))
    return Answer(Openings.from_openings(found, together))


@procedures.mutation("gate.override", gives=Overridden, raises=(Conflict,), queues=True)
async def override(context: Context, given: Override) -> Answer:
    """Do not let one gate stop one deployment, with a reason.

    It holds for the image that the gate was asked about. If the gate has ended the deployment, a new one is queued, and
    the answer names it. A key for the application alone cannot override what its environment or project requires.
    """
    passes = await gate_overrides.override(
        context.pool, context.vault, given.deployment_id, given.name, given.reason, caller=context.caller
    )
    return Answer(Overridden.make(deployment_id=passes), headers={"X-Deployment-Id": passes}, changed=True)
