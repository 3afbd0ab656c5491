"""lookup.*: find the id of what a person names: by its name, its id, or the beginning of its id."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, StringConstraints

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api.procedures._response import Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.api_keys import Caller, Permission
from gateway.model.errors import Conflict, Forbidden, NotFound
from gateway.store import applications, lookup, resource_owners
from gateway.store.database import statement
from gateway.store.lookup import Noun

procedures = Procedures()

_MOST = 200  # that one word may mean
_SHOWN = 5  # of those, in the message
_Word = Annotated[str, StringConstraints(min_length=1, max_length=255)]

_LISTINGS: Mapping[Noun, str] = {
    Noun.ALERT_DELIVERY: "alerts deliveries",
    Noun.APPLICATION: "apps list",
    Noun.DELIVERY: "deliveries list",
    Noun.ENVIRONMENT: "projects show PROJECT",
    Noun.GATE: "gates list APP",
    Noun.REGISTRY: "registries list",
}


class Wanted(Input):
    kind: Noun
    word: Annotated[
        _Word,
        Field(
            description="An id, a name, or the first four or more characters of an id. Of an application, also "
            "PROJECT/ENVIRONMENT/NAME."
        ),
    ]


class Beginning(Input):
    kind: Noun = Noun.APPLICATION
    start: Annotated[str, StringConstraints(max_length=255)] = ""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class OfApplications(Input):
    applications: Annotated[
        str, Field(min_length=1, max_length=300_000, description="Ids of applications, separated by commas.")
    ]


class Meant(Response):
    """What a word means."""

    id: str
    name: Annotated[str | None, Field(description="Null: it has none, as a deployment.")]


@procedures.query("lookup.one", gives=Meant, access=KeyAccess.FILTERED, raises=(NotFound, Conflict))
async def select_one(context: Context, given: Wanted) -> Answer:
    """Return the id of what is meant.

    An id decides before a name, and a name before the beginning of an id. The call fails if the word can mean several.
    A restricted key finds only what is its own.
    """
    _require(context.caller, given.kind)
    async with statement(context.pool) as connection:
        found = await lookup.select_meant(connection, given.kind, given.word, _MOST, context.caller.grants)
    if not found:
        raise NotFound(_missing(given.kind, given.word))
    if len(found) > 1:
        shown = ", ".join(f"{one.id} ({one.name})" if one.name else one.id for one in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise Conflict(f"{given.word!r} can mean {len(found)} {given.kind}s: {shown}{more}. Use the id")
    return Answer(Meant.make(found[0]))


@procedures.query("lookup.all", gives=list[Meant], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: Beginning) -> Answer:
    """List what has a name, or an id, that begins so.

    A restricted key gets only what is its own.
    """
    _require(context.caller, given.kind)
    async with statement(context.pool) as connection:
        found = await lookup.select_beginning(connection, given.kind, given.start, given.limit, context.caller.grants)
    return Answer([Meant.make(one) for one in found])


@procedures.query("lookup.names", gives=dict[str, str], access=KeyAccess.FILTERED)
async def select_names(context: Context, given: OfApplications) -> Answer:
    """Return the names of applications, by id.

    Where several have one name, it is PROJECT/ENVIRONMENT/NAME; where they share even that, NAME (CONTAINER). A
    restricted key gets only those of its own applications.
    """
    ids = set(given.applications.split(","))
    async with statement(context.pool) as connection:
        if context.caller.grants is not None:
            ids &= await resource_owners.select_covered(connection, context.caller.grants)
        return Answer(await applications.select_names(connection, ids))


def _require(caller: Caller, kind: Noun) -> None:
    """Raise Forbidden where the key may not list what is of this kind."""
    if kind is Noun.KEY:
        caller.require("lookup.one of keys", Permission.ADMIN, restriction=None)
    if caller.grants is not None and kind not in lookup.OWNED:
        raise Forbidden(f"Key {caller.name!r} may use only {caller.grants}. A {kind} needs an unrestricted key.")


def _missing(kind: Noun, word: str) -> str:
    if kind is Noun.APPLICATION:
        return f"there is no application called {word!r}; see: gateway apps list"
    also = " Names are case-sensitive." if kind in {Noun.PROJECT, Noun.ENVIRONMENT} else ""
    return f"There is no {kind} {word!r}.{also} List them: gateway {_LISTINGS.get(kind, f'{kind}s list')}"
