"""Declare a procedure: its name, its kind, the types of its input and answer, and which API keys may call it.

The type of the answer serves two readers: the OpenAPI document shows it, and
the tests check every response against it. It is not checked at run time. A row is a Response that is made from a value,
and sent with Dokploy's field names:

    class SubscriptionRow(Response):
        subscription_id: str
        pattern: Annotated[str, Field(description="As the policy reads it.")]
        created_at: Moment

    procedures = Procedures()

    @procedures.query("subscription.all", gives=list[SubscriptionRow])
    async def select_all(context: Context, given: OfApplication) -> Answer: ...

`gives=None` is an empty answer, `Literal[True]` Dokploy's answer for "done". The docstring of the function is the
procedure's description in the OpenAPI document, that of its module the description of its tag.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api.rpc.trpc import UNDEFINED
from gateway.model.api_keys import Permission
from gateway.model.errors import GatewayError


class Surface(StrEnum):
    """A surface of the API."""

    REST = "rest"
    TRPC = "trpc"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a procedure returns; `changed` says that deployments may have been queued."""

    value: Any = UNDEFINED
    headers: Mapping[str, str] = field(default_factory=dict)
    changed: bool = False


class KeyAccess(Enum):
    """Whether a restricted API key, one for certain applications or projects, may call a procedure."""

    #: where every id in the input belongs to those; the input must require an id, or `authorized_by` name one
    BY_ID = auto()
    #: always; the procedure itself shows and changes only what the key is for
    FILTERED = auto()
    #: always, as it shows nothing of an application
    ANY_KEY = auto()


@dataclass(frozen=True, slots=True)
class Procedure:
    """A procedure. `gives` is the type of its answer, None for an empty one; `needs` is the permission it requires.

    `access` says whether a restricted key may call it: by default, as far as the ids in the input allow.
    """

    name: str
    kind: Literal["query", "mutation"]
    takes: type[Input]
    run: Callable[[Context, Any], Awaitable[Answer]]
    gives: Any = Any
    needs: Permission | None = None
    #: errors in addition to those that follow from the input
    raises: tuple[type[GatewayError], ...] = ()
    #: whether the response names the queued deployment in the header X-Deployment-Id
    queues: bool = False
    access: KeyAccess = KeyAccess.BY_ID
    authorized_by: frozenset[str] = frozenset()
    #: a mutation only because its input is too large for a URL: it changes nothing, so the audit does not record it
    only_checks: bool = False

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.kind == "mutation" and not self.only_checks

    @property
    def router(self) -> str:
        return self.name.partition(".")[0]

    @property
    def permission(self) -> Permission:
        """The permission that a key must have: by default READ for a query, ADMIN for a mutation."""
        if self.needs is not None:
            return self.needs
        return Permission.READ if self.kind == "query" else Permission.ADMIN


_GivenT = TypeVar("_GivenT", bound=Input)
_Run = Callable[[Context, _GivenT], Awaitable[Answer]]


class _Options(TypedDict, total=False):
    """The fields of a Procedure that have a default."""

    needs: Permission | None
    raises: tuple[type[GatewayError], ...]
    queues: bool
    access: KeyAccess
    authorized_by: frozenset[str]
    only_checks: bool


class Procedures(list[Procedure]):
    """The procedures of one module. Its decorators add a function, and return it unchanged.

    The input is the type of the function's second parameter, unless `takes` names another.
    """

    def query(
        self, name: str, *, gives: Any, takes: type[Input] | None = None, **options: Unpack[_Options]
    ) -> Callable[[_Run[_GivenT]], _Run[_GivenT]]:
        """Declare a procedure that changes nothing."""
        return self._declare(name, "query", takes, gives, options)

    def mutation(
        self, name: str, *, gives: Any, takes: type[Input] | None = None, **options: Unpack[_Options]
    ) -> Callable[[_Run[_GivenT]], _Run[_GivenT]]:
        """Declare a procedure that changes something."""
        return self._declare(name, "mutation", takes, gives, options)

    def _declare(
        self, name: str, kind: Literal["query", "mutation"], takes: type[Input] | None, gives: Any, options: _Options
    ) -> Callable[[_Run[_GivenT]], _Run[_GivenT]]:
        def declare(run: _Run[_GivenT]) -> _Run[_GivenT]:
            self.append(Procedure(name, kind, takes or _input_of(run), run, gives, **options))
            return run

        return declare


def _input_of(run: Callable[..., Any]) -> type[Input]:
    _, given = inspect.signature(run).parameters.values()
    found: type[Input] = given.annotation
    return found
