"""The plan of a declaration: each difference is tried in a transaction that is undone."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from pydantic import ValidationError

from gateway.admin.application_update import select_pending_changes
from gateway.admin.context import Context
from gateway.admin.declared import calls
from gateway.admin.declared.current import Current, read, version_of
from gateway.admin.declared.references import ApplicationNames, References, application_names, path_of
from gateway.admin.declared.wanted import want
from gateway.api.procedures._declared_session import Session
from gateway.model.configuration_diff import Change
from gateway.model.declared.forms import DEFAULT_NAME
from gateway.model.declared.objects import Declared, Kind, ObjectPath, follows_of, is_in, located
from gateway.model.declared.secrets import dotted
from gateway.model.declared.states import Difference, differences
from gateway.model.errors import Conflict, DatabaseUnavailable, Forbidden, GatewayError, InvalidInput, Unavailable
from gateway.store import applications
from gateway.store import declared as store
from gateway.store.database import Connection, Pool, joined, trial

CREATED, CHANGED, REMOVED, UNCHANGED, REFUSED = "created", "changed", "removed", "unchanged", "refused"
_LONGEST = 60.0  # seconds; after that, differences are not tried any more
_LONGEST_IN_ALL = 120.0  # seconds; after that, there is no plan
_LONGEST_TOGETHER = 1.0  # seconds of one transaction in which several objects are tried


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to happen to an object, and what the next deployment of an application will change."""

    path: ObjectPath
    action: str
    version: str | None = None
    differences: Sequence[Difference] = ()
    pending: Sequence[Change] = ()
    error: GatewayError | None = None
    note: str = ""


@dataclass(slots=True)
class _Planning:
    context: Context
    names: ApplicationNames
    secrets: "SecretsByPath" = field(repr=False)
    declaration: str
    take_over: bool
    done: dict[ObjectPath, Planned]
    ids: dict[tuple[Kind, str], ObjectPath]
    began: float
    by_path: Mapping[ObjectPath, Declared]
    #: the objects by what others may call them
    by_name: Mapping[tuple[Kind, str], Sequence[Declared]]
    #: where objects are tried, and the places that are there already though the plan makes them
    pool: Pool
    prepared: Collection[ObjectPath] = ()


async def plan(
    context: Context,
    objects: Sequence[Declared],
    secrets: Mapping[str, str],
    *,
    declaration: str,
    project: str | None = None,
    prune: bool = False,
    take_over: bool = True,
) -> list[Planned]:
    """Return what applying the objects changes, in order; `project` limits it to that one. Nothing is changed.

    Without `take_over`, a change of what was not made for this declaration is refused.
    """
    by_name: dict[tuple[Kind, str], list[Declared]] = {}
    for one in objects:
        for name in {one.path.name, one.path.full_name}:
            by_name.setdefault((one.path.kind, name), []).append(one)
    planning = _Planning(
        context,
        application_names(objects),
        SecretsByPath(secrets),
        declaration,
        take_over,
        done={},
        ids={},
        began=time.monotonic(),
        by_path={one.path: one for one in objects},
        by_name=by_name,
        pool=context.pool,
    )
    wanted = [one for one in objects if project is None or is_in(one.path, project)]
    while wanted:
        del wanted[: await _plan_some(planning, wanted)]
    removed = await _plan_removals(planning, project) if prune else []
    return [*planning.done.values(), *removed]


async def _plan_some(planning: _Planning, objects: Sequence[Declared]) -> int:
    """Plan the next object; or several, if they are applications in an environment that is new itself.

    That environment and its project are then made once for them, and not for each. Returns their number.
    """
    if (place := _new_environment(planning, objects[0])) is not None:
        together = takewhile(lambda one: _new_environment(planning, one) == place, objects)
        try:
            return await _plan_together(planning, objects[0].path, together)
        except GatewayError as error:
            if isinstance(error, DatabaseUnavailable):
                raise
    await _plan_next(planning, objects[0])
    return 1


async def _plan_together(planning: _Planning, path: ObjectPath, objects: Iterable[Declared]) -> int:
    until = time.monotonic() + _LONGEST_TOGETHER
    async with trial(planning.context.pool) as connection:
        references = References(connection, planning.context.caller, planning.names)
        await _prepare_around(planning, Session(connection, planning.context, references), path)
        planning.pool, planning.prepared = joined(connection), _around(path)
        try:
            for number, one in enumerate(objects, 1):  # noqa: B007 - there is one at least
                await _plan_next(planning, one)
                if time.monotonic() > until:
                    break
        finally:
            planning.pool, planning.prepared = planning.context.pool, ()
    return number


def _new_environment(planning: _Planning, one: Declared) -> ObjectPath | None:
    """Return the environment that an application is in, if the plan makes it."""
    if one.path.kind is not Kind.APPLICATION or one.path.environment is None:
        return None
    place = ObjectPath(Kind.ENVIRONMENT, one.path.environment, one.path.project)
    planned = planning.done.get(place)
    return place if planned is not None and planned.action == CREATED and not planned.note else None


async def _plan_next(planning: _Planning, one: Declared) -> None:
    _require_time(planning)
    planning.done[one.path] = await _plan(planning, one)


def _require_time(planning: _Planning) -> None:
    """Raises Unavailable when the plan takes too long, though differences are not tried any more."""
    if time.monotonic() > planning.began + _LONGEST_IN_ALL:
        raise Unavailable(
            f"the plan takes longer than {_LONGEST_IN_ALL:.0f} seconds, after {len(planning.done)} objects: the "
            "database is busy. Plan one project at a time (--project), or later"
        )


class SecretsByPath:
    """The secrets of a declaration, sorted: those of an object are found without a look at all others."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._names = sorted(secrets)

    def of(self, path: ObjectPath) -> dict[str, str]:
        """Return the secrets of an object, by their paths in it."""
        prefix = dotted(path.parts) + "."
        found = {}
        for place in range(bisect_left(self._names, prefix), len(self._names)):
            name = self._names[place]
            if not name.startswith(prefix):
                break
            found[name.removeprefix(prefix)] = self._secrets[name]
        return found


async def _plan(planning: _Planning, one: Declared) -> Planned:
    try:
        async with trial(planning.pool) as connection:
            return await _plan_in(planning, one, connection)
    except DatabaseUnavailable:
        raise
    except ValidationError as error:
        return Planned(one.path, REFUSED, error=located(error, {}))
    except GatewayError as error:
        return Planned(one.path, REFUSED, error=error)


async def _plan_in(planning: _Planning, one: Declared, connection: Connection) -> Planned:
    context, path = planning.context, one.path
    references = References(connection, context.caller, planning.names)
    session = Session(connection, context, references)
    if one.is_place and (object_id := await references.find(path)) is not None:
        planning.ids.setdefault((path.kind, object_id), path)
        return Planned(path, UNCHANGED)
    current = await session.current(path)
    secrets = planning.secrets.of(path)
    if current is None:
        missing = calls.is_production(path) and await references.container_of(path) is None
        base = Current("", {}) if missing else None  # it is made with its project
    else:
        base = current
        twice = planning.ids.setdefault((path.kind, current.object_id), path)
        if twice != path:
            raise InvalidInput(f"this is the same object as {'.'.join(twice.parts)}")
    wanted = await want(references, one, secrets, base)
    changed = differences(base.state if base else {}, wanted)
    version = version_of(context, path.kind, current)
    if current is not None:
        owner = await store.select_declaration(connection, path.kind, current.object_id)
        if owner not in {None, planning.declaration} and takes_over(planning.declaration):
            changed.append(Difference("declaration", owner, planning.declaration))
        if changed and owner != planning.declaration and not planning.take_over:
            raise Conflict(f"{path} is there already, and the declaration {planning.declaration} did not make it")
    if base is not None and not changed:
        pending = await pending_of(session, path, current)
        return Planned(path, UNCHANGED, version, pending=pending)
    action = CREATED if base is None else CHANGED
    limit = asyncio.timeout(max(planning.began + _LONGEST - time.monotonic(), 0))
    try:
        async with limit:
            pending = await _try(planning, session, one, secrets, current)
    except TimeoutError:
        if not limit.expired():
            raise
        return Planned(path, action, version, changed, note="not tried: the plan takes too long")
    return Planned(path, action, version, changed, pending)


async def _try(
    planning: _Planning, session: Session, one: Declared, secrets: Mapping[str, str], current: Current | None
) -> list[Change]:
    """Apply the object in the transaction that is undone; return what its next deployment then changes."""
    await _prepare(planning, session, one)
    if current is None:
        current = await session.current(one.path)  # an environment that was made with its project
    applied = await session.apply(one, secrets, current)
    return await pending_of(session, one.path, Current(applied.object_id, {}))


def takes_over(declaration: str) -> bool:
    """Tell whether this declaration gets what another one made and it changes: not that of files without a name."""
    return declaration != DEFAULT_NAME


async def pending_of(session: Session, path: ObjectPath, current: Current | None) -> list[Change]:
    if path.kind is not Kind.APPLICATION or current is None:
        return []
    vault = session.context.vault
    found = await applications.select_application(session.connection, vault, current.object_id)
    return await select_pending_changes(session.connection, vault, found)


async def _prepare(planning: _Planning, session: Session, one: Declared) -> None:
    """Apply what the object stands in, and make what it names and the declaration is about to make."""
    await _prepare_around(planning, session, one.path)
    for name in _named(one):
        for other in planning.by_name.get(name, ()):
            if await session.references.find(other.path) is None:
                await _make(planning, session, other)


async def _prepare_around(planning: _Planning, session: Session, path: ObjectPath) -> None:
    """Apply the project and the environment that an object is in, as far as the plan changes them."""
    for around in _around(path):
        if around not in planning.done or around in planning.prepared:
            continue
        other, before = planning.by_path[around], planning.done[around]
        if before.error is not None:
            raise InvalidInput(f"{other.path} is refused, so this was not tried")
        if before.action != UNCHANGED:
            found = await session.current(other.path)
            await session.apply(other, planning.secrets.of(other.path), found)


async def _make(planning: _Planning, session: Session, other: Declared) -> None:
    if other.path.kind is not Kind.APPLICATION:
        await session.apply(other, planning.secrets.of(other.path), None)
        return
    for around in _around(other.path):
        if around in planning.by_path and await session.references.find(around) is None:
            await session.apply(planning.by_path[around], planning.secrets.of(around), None)
    await session.make_bare(other.path)


def _around(path: ObjectPath) -> list[ObjectPath]:
    """Return the project, and then the environment, that an object is in."""
    if path.project is None:
        return []
    above = [ObjectPath(Kind.PROJECT, path.project)]
    return above if path.environment is None else [*above, ObjectPath(Kind.ENVIRONMENT, path.environment, path.project)]


def _named(one: Declared) -> set[tuple[Kind, str]]:
    """Return the objects that this one names."""
    form, kind = one.form, one.path.kind
    if kind is Kind.APPLICATION:
        server = {(Kind.SERVER, form.server)} if form.server else set()
        return server | {(Kind.APPLICATION, name) for name in follows_of(form)}
    if kind is Kind.GROUP:
        return {(Kind.APPLICATION, name) for name in form.members}
    if kind is Kind.ALERT:
        project = {(Kind.PROJECT, form.project)} if form.project else set()
        return project | ({(Kind.APPLICATION, form.application)} if form.application else set())
    if kind is Kind.KEY:
        projects = {(Kind.PROJECT, name) for name in form.projects or ()}
        return projects | {(Kind.APPLICATION, name) for name in form.applications or ()}
    return set()


# -- removals


async def _plan_removals(planning: _Planning, project: str | None) -> list[Planned]:
    found = []
    async with trial(planning.context.pool) as connection:
        references = References(connection, planning.context.caller)
        made_by_kind: dict[Kind, list[str]] = {}
        for made in await store.select_made(connection, planning.declaration):
            made_by_kind.setdefault(made.kind, []).append(made.object_id)
        # What the key is not for is not removed, and not shown.
        visible = [(kind, one) for kind, ids in made_by_kind.items() for one in await references.visible(kind, ids)]
        for kind, object_id in reversed(visible):
            if (kind, object_id) in planning.ids:
                continue
            _require_time(planning)
            path = await path_of(connection, kind, object_id)
            if project is not None and not is_in(path, project):
                continue
            try:
                current = await read(connection, planning.context, kind, object_id)
            except Forbidden:
                continue
            version = version_of(planning.context, kind, current)
            found.append(Planned(path, REMOVED, version, differences(current.state, {})))
    return found
