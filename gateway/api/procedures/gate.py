"""gate.*: what deployments must pass before their image is pulled."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from gateway.admin import gates as admin
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input, Text
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, Procedures
from gateway.gates import catalog
from gateway.model.errors import Conflict
from gateway.model.gates import GateSetting, Level
from gateway.store import gates
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


class GateRow(Response):
    """A gate as it is set on an application, an environment or a project."""

    gate_id: str
    level: Level
    application_id: str | None
    environment_id: str | None
    project_id: str | None
    kind: str
    name: str
    title: Annotated[str, Field(description="What a gate of this kind does.")]
    rule: dict[str, Any]
    has_secret: bool
    enabled: bool
    required: bool
    created_at: Moment

    @classmethod
    def from_setting(cls, setting: GateSetting, **more: Any) -> Self:
        kind = catalog.GATES.get(setting.kind)
        owners: Mapping[str, str | None] = {
            f"{level}_id": setting.owner_id if setting.level is level else None for level in Level
        }
        return cls.make(
            setting,
            rule=dict(setting.rule),
            title=kind.title if kind else "",
            has_secret=bool(setting.secret_mark),
            **owners,
            **more,
        )


class CreatedGate(GateRow):
    """A gate, and the secret that was made for it."""

    secret: Annotated[str | None, Field(description="Shown once: what requests of this gate are signed with.")] = None


class PlacedGate(GateRow):
    """A gate, and whether it applies."""

    applies: Annotated[bool, Field(description="False: a nearer gate of this name replaces it or turns it off.")]


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
