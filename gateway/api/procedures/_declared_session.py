"""Read and change the objects of declarations in one transaction, by calls of the other procedures.

A caller has the rights of those procedures: each call is authorized as if it came alone.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from secrets import choice
from typing import Any

from pydantic import ValidationError

from gateway.admin.application_create import create_application, free_container_name
from gateway.admin.applications import Changes
from gateway.admin.context import Context
from gateway.admin.declared import calls
from gateway.admin.declared.calls import Call, field_of
from gateway.admin.declared.current import Current, read
from gateway.admin.declared.references import References
from gateway.admin.declared.wanted import want
from gateway.admin.privileges import limits_for
from gateway.api.procedures import (
    alert,
    application,
    application_adopt,
    application_deploy,
    environment,
    gate,
    group,
    project,
    registry,
    server,
    subscription,
    user,
    webhook,
)
from gateway.api.rpc.auth import authorize
from gateway.api.rpc.procedure import Procedure
from gateway.model.applications import parse_app_name
from gateway.model.declared.objects import Declared, ObjectPath, located
from gateway.model.declared.states import Difference, State, differences
from gateway.model.errors import Forbidden, InvalidInput
from gateway.model.slug import slug
from gateway.store.database import Connection, joined

_MODULES = (
    alert,
    application,
    application_adopt,
    application_deploy,
    environment,
    gate,
    group,
    project,
    registry,
    server,
    subscription,
    user,
    webhook,
)
_PROCEDURES: Mapping[str, Procedure] = {one.name: one for module in _MODULES for one in module.procedures}
_SUFFIX_LENGTH = 6


@dataclass(frozen=True, slots=True)
class Applied:
    """An object after it was applied. `printed` is what is shown once: a key, or the path and secret of a webhook."""

    object_id: str
    was_made: bool
    differences: list[Difference]
    state: State = field(repr=False)
    printed: Mapping[str, str] = field(default_factory=dict, repr=False)


class Session:
    """One transaction."""

    def __init__(self, connection: Connection, context: Context, references: References) -> None:
        self.connection = connection
        self.context = replace(context, pool=joined(connection))
        self.references = references
        #: whether deployments may have been queued
        self.has_queued = False

    async def current(self, path: ObjectPath) -> Current | None:
        """Return the object as it is, None where the caller sees none. Raises Conflict, Forbidden, Unavailable."""
        object_id = await self.references.find(path)
        return None if object_id is None else await read(self.connection, self.context, path.kind, object_id)

    async def apply(self, declared: Declared, secrets: Mapping[str, str], current: Current | None) -> Applied:
        """Make the object what is declared; `current` is what it is. Raises InvalidInput naming its field."""
        wanted = await want(self.references, declared, secrets, current)
        before: State = {} if current is None else current.state
        changed, printed = differences(before, wanted), {}
        was_made = current is None
        if current is None:
            printed = _printed(await self.call(await calls.creation(self.references, declared, wanted)))
            current = await self.current(declared.path)
            if current is None:  # a key may make what it is not for
                raise Forbidden(f"{declared.path} would not be one of those that this key is for")
            wanted = await want(self.references, declared, secrets, current)
        for call in await calls.changes(self.references, declared.path, current, wanted):
            made = _printed(await self.call(call))
            printed |= {
                f"{call.inside}.{name}": value for name, value in made.items() if call.procedure == "gate.create"
            }
        return Applied(current.object_id, was_made, changed, wanted, printed)

    async def make_bare(self, path: ObjectPath) -> None:
        """Make an application without anything, for others that name it."""
        inside = await self.references.container_of(path)
        where = {} if path.project is None else {"environmentId": inside}
        await self.call(Call("application.create", {"name": path.name, **where}, container=path.name))

    async def call(self, call: Call) -> Any:
        """Call a procedure, and return its answer. Raises what it raises, about the declaration's fields."""
        try:
            return await self._call(call)
        except ValidationError as error:
            found = located(error, dict(call.given))
            raise InvalidInput(str(found), field=field_of(call, found.field)) from error
        except InvalidInput as error:
            raise InvalidInput(str(error), field=field_of(call, error.field)) from error

    async def _call(self, call: Call) -> Any:
        procedure = _PROCEDURES[call.procedure]
        parsed = await authorize(self.context, self.context.caller, procedure, call.given)
        if call.container is not None and isinstance(parsed, Changes):
            return await self._create_application(parsed, call.container)
        answer = await procedure.run(self.context, parsed)
        self.has_queued |= answer.changed
        return answer.value

    async def _create_application(self, given: Changes, name: str) -> None:
        limits = limits_for(self.context)
        if limits is None:
            container = await free_container_name(self.connection, name)
        else:
            suffix = "".join(choice(string.ascii_lowercase + string.digits) for _ in range(_SUFFIX_LENGTH))
            container = parse_app_name(f"{slug(name)}-{suffix}")
        await create_application(
            self.connection,
            self.context.vault,
            given,
            name=name,
            app_name=container,
            application_id=None,
            limits=limits,
        )


def _printed(answer: Any) -> dict[str, str]:
    """Return what of an answer is shown once."""
    shown = {name: getattr(answer, name, None) for name in ("key", "path", "secret", "header")}
    if shown["key"] is None and shown["secret"] is None:
        return {}
    return {name: value for name, value in shown.items() if isinstance(value, str)}
