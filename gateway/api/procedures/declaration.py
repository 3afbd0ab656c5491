"""declaration.*: what operators set up, as one document: plan it, apply it, export it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.declared import calls, exports
from gateway.admin.declared.current import Current, version_of
from gateway.admin.declared.references import References
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._declared_plan import (
    CHANGED,
    CREATED,
    REMOVED,
    UNCHANGED,
    Planned,
    pending_of,
    plan,
    takes_over,
)
from gateway.api.procedures._declared_session import Session
from gateway.api.procedures._response import Response
from gateway.api.procedures.application_adopt import engine_of, select_adopted_ids
from gateway.api.procedures.application_pending import PendingChange
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.declared.forms import DEFAULT_NAME, MAX_OBJECTS, DeclarationForm
from gateway.model.declared.objects import ObjectPath, objects_of, parse_form, parse_object
from gateway.model.declared.states import Difference, differences
from gateway.model.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from gateway.store import declared as store
from gateway.store import servers
from gateway.store.database import transaction, trial

procedures = Procedures()

_SCHEMA = "Its form is docs/declared.schema.json; see docs/declared.md."
_Declaration = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
_Secrets = Annotated[
    dict[str, Annotated[str, Field(max_length=1_000_000)]],
    Field(description="Values of the fields that end in From, by their dotted paths."),
]


class Plan(Input):
    document: Annotated[dict[str, Any], Field(description=_SCHEMA)]
    secrets: _Secrets = Field(default_factory=dict)
    project: Annotated[str | None, Field(max_length=255, description="Only what is in this project.")] = None
    prune: Annotated[
        bool, Field(description="Remove what was made for this declaration and is not in the document.")
    ] = False
    take_over: Annotated[
        bool, Field(description="Change what is there and was not made for this declaration; false: refuse that.")
    ] = True


class Apply(Input):
    path: Annotated[
        list[Annotated[str, Field(max_length=255)]],
        Field(min_length=2, max_length=6, description="Where the object stands in the document."),
    ]
    spec: Annotated[
        dict[str, Any] | None,
        Field(description="The object as the document has it, without the objects inside. Null removes it."),
    ]
    secrets: _Secrets = Field(default_factory=dict)
    version: Annotated[
        str | None, Field(max_length=200, description="As the plan had it. Null: the object does not exist.")
    ] = None
    declaration: _Declaration = DEFAULT_NAME


class Export(Input):
    project: Annotated[str | None, Field(max_length=255, description="Only what is in this project.")] = None
    engine: Annotated[
        bool, Field(description="Only applications of one engine, with the containers there that can be adopted.")
    ] = False
    server_id: Annotated[Id | None, Field(description="The server of that engine. Null: the gateway's own.")] = None
    variables: Annotated[
        bool, Field(description="With the values of variables, which may be secrets. Needs scope admin.")
    ] = False


class FieldChange(Response):
    """A field of an object that changes. Of secrets only that they do."""

    field: str
    before: Any
    after: Any

    @classmethod
    def rows(cls, found: Sequence[Difference]) -> list[Self]:
        return [cls.make(one) for one in found]


class ObjectError(Response):
    """Why an object cannot be applied."""

    message: str
    field: Annotated[str | None, Field(description="Dotted path of the field in the object.")]


class PlannedObject(Response):
    """What is to happen to an object."""

    path: list[str]
    kind: str
    action: Literal["created", "changed", "removed", "unchanged", "refused"]
    version: Annotated[str | None, Field(description="To be sent with declaration.apply.")]
    changes: list[FieldChange]
    pending: Annotated[
        list[PendingChange], Field(description="What the next deployment of the application changes of what runs.")
    ]
    error: ObjectError | None
    note: str

    @classmethod
    def from_planned(cls, one: Planned) -> Self:
        error = one.error and ObjectError.make(
            message=str(one.error), field=one.error.field if isinstance(one.error, InvalidInput) else None
        )
        return cls.make(
            one,
            path=list(one.path.parts),
            kind=str(one.path.kind),
            changes=FieldChange.rows(one.differences),
            pending=[PendingChange.make(change) for change in one.pending],
            error=error,
        )


class PlanRow(Response):
    """The plan of a declaration."""

    declaration: str
    differs: Annotated[bool, Field(description="Whether anything is to be created, changed or removed, or is refused.")]
    objects: list[PlannedObject]


class AppliedObject(Response):
    """An object after it was applied."""

    path: list[str]
    kind: str
    action: Literal["created", "changed", "removed", "unchanged"]
    changes: list[FieldChange]
    pending: list[PendingChange]
    printed: Annotated[
        dict[str, str], Field(description="Shown once: a key, the path and the secret of a webhook, a gate's secret.")
    ]


class Exported(Response):
    """A declaration of what is there, and remarks about it."""

    document: dict[str, Any]
    notes: list[str]


@procedures.mutation(
    "declaration.plan",
    gives=PlanRow,
    raises=(Conflict, NotFound, Forbidden, Unavailable),
    access=KeyAccess.FILTERED,
    only_checks=True,
)
async def plan_declaration(context: Context, given: Plan) -> Answer:
    """Check what applying a declaration changes.

    Nothing is changed. Each object is checked with the rights that its own procedures need.
    """
    document: DeclarationForm = parse_form(DeclarationForm, given.document)
    objects = objects_of(document)
    if len(objects) > MAX_OBJECTS:
        raise InvalidInput(f"a declaration has at most {MAX_OBJECTS} objects: make several", field="document")
    if given.prune and "declaration" not in document.model_fields_set:
        raise InvalidInput(
            "files without a name share what they made, so nothing of it is removed: name the declaration in the file: "
            "declaration: NAME",
            field="document.declaration",
        )
    found = await plan(
        context,
        objects,
        given.secrets,
        declaration=document.declaration,
        project=given.project,
        prune=given.prune,
        take_over=given.take_over,
    )
    rows = [PlannedObject.from_planned(one) for one in found]
    differs = any(one.action != UNCHANGED for one in found)
    return Answer(PlanRow.make(declaration=document.declaration, differs=differs, objects=rows))


@procedures.mutation(
    "declaration.apply",
    gives=AppliedObject,
    raises=(Conflict, NotFound, Forbidden, Unavailable),
    access=KeyAccess.FILTERED,
)
async def apply_object(context: Context, given: Apply) -> Answer:
    """Set one object as a declaration has it.

    All of it is applied, or nothing. It is refused if somebody changed the object since the plan.
    """
    path = ObjectPath.parse(given.path)
    declared = None if given.spec is None else parse_object(path, given.spec)
    async with transaction(context.pool) as connection:
        references = References(connection, context.caller)
        session = Session(connection, context, references)
        await store.lock_name(connection, path.kind, path.name, await references.container_of(path))
        object_id = await references.find(path)
        if object_id is not None:
            await store.lock(connection, path.kind, object_id)
        if object_id is not None and declared is not None and declared.is_place:
            return Answer(_row(path, UNCHANGED, ()))
        current = await session.current(path)
        _require_version(context, path, current, given)
        if declared is None:
            return await _remove(session, path, current, given)
        applied = await session.apply(declared, given.secrets, current)
        if applied.was_made:
            await store.insert_made(connection, path.kind, applied.object_id, given.declaration)
        elif takes_over(given.declaration):
            await store.move_made(connection, path.kind, applied.object_id, given.declaration)
        pending = await pending_of(session, path, Current(applied.object_id, {}))
    action = CREATED if applied.was_made else CHANGED if applied.differences else UNCHANGED
    row = _row(path, action, applied.differences, applied.printed)
    row.pending = [PendingChange.make(change) for change in pending]
    return Answer(row, changed=session.has_queued)


def _row(
    path: ObjectPath, action: str, changed: Sequence[Difference], printed: Mapping[str, str] | None = None
) -> AppliedObject:
    return AppliedObject.make(
        path=list(path.parts),
        kind=str(path.kind),
        action=action,
        changes=FieldChange.rows(changed),
        pending=[],
        printed=dict(printed or {}),
    )


def _require_version(context: Context, path: ObjectPath, current: Current | None, given: Apply) -> None:
    """Raises Conflict unless the object is as the plan saw it."""
    if version_of(context, path.kind, current) == given.version:
        return
    if given.version is None and current is not None and calls.is_production(path) and not current.state:
        return  # it was made with its project, since the plan
    what = "removed" if current is None else "made" if given.version is None else "changed"
    raise Conflict(f"{path} was {what} since the plan: plan again")


async def _remove(session: Session, path: ObjectPath, current: Current | None, given: Apply) -> Answer:
    if current is None:
        raise InvalidInput("a removal needs the version that the plan shows", field="version")
    owner = await store.select_declaration(session.connection, path.kind, current.object_id)
    if owner != given.declaration:
        raise Conflict(
            f"{path} was not made for the declaration {given.declaration}, so it is not removed with it: remove it "
            "by hand"
        )
    await session.call(calls.removal(path.kind, current.object_id))
    return Answer(_row(path, REMOVED, differences(current.state, {})), changed=session.has_queued)


@procedures.query("declaration.export", gives=Exported, raises=(NotFound, Unavailable), access=KeyAccess.FILTERED)
async def export(context: Context, given: Export) -> Answer:
    """Return what is there as a declaration.

    Secrets are left out: where the gateway holds one, the declaration says `unchanged`. A restricted key gets only its
    own projects and applications.
    """
    running = await _adoptable(context, given.server_id) if given.engine else None
    async with trial(context.pool) as connection:
        found = await exports.export(
            connection,
            context,
            project=given.project,
            server_id=given.server_id,
            engine=given.engine,
            variables=given.variables,
        )
    whole = found if running is None else exports.combined(found, running)
    return Answer(Exported.make(whole))


async def _adoptable(context: Context, server_id: str | None) -> exports.Export:
    """Return what could be adopted there, for one who may adopt it."""
    if not context.caller.is_global_admin:
        raise Forbidden(f"Key {context.caller.name!r} may not adopt containers: that needs an unrestricted admin key")
    name = None
    if server_id is not None:
        async with transaction(context.pool) as connection:
            name = (await servers.select_server(connection, context.vault, server_id)).name
    return await exports.adoptable(engine_of(context, server_id), name, await select_adopted_ids(context))
