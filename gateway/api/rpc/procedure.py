"""A procedure is data: its name, whether it changes anything, what it takes and gives, and who answers.

What it gives is a type, made for three readers: mypy, which holds the functions that make such rows to it; the API's
description, which shows it; and the tests, which check every answer they see against it. Nothing is checked where it
runs. A row is a TypedDict named for its noun, with the contract's names:

    class SubscriptionRow(TypedDict):
        subscriptionId: str
        pattern: Annotated[str, Field(description="As the policy reads it.")]
        createdAt: Moment

    procedures = Procedures()

    @procedures.query("subscription.all", gives=list[SubscriptionRow])
    async def select_all(context: Context, given: OfApplication) -> Answer: ...

`gives=None` is an answer of nothing, `Literal[True]` the contract's word for "done". The docstring of the function that
answers is the procedure's description, that of its module its tag's.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Unpack

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api.rpc.trpc import UNDEFINED
from gateway.model.api_keys import Permission
from gateway.model.errors import GatewayError

#: a time in an answer
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Surface(StrEnum):
    """Which of the two ways in."""

    REST = "rest"
    TRPC = "trpc"


@dataclass(frozen=True, slots=True)
class Answer:
    """`changed` says that there is something to roll out."""

    value: Any = UNDEFINED
    headers: Mapping[str, str] = field(default_factory=dict)
    changed: bool = False


class KeyAccess(Enum):
    """How a procedure is open to a key that is for certain applications or projects alone."""

    #: as far as every id that is sent leads to those; the input has to demand one, or `authorized_by` to name it
    BY_ID = auto()
    #: to each such key, and shows or changes nothing but what the caller is for: the procedure sees to that itself
    FILTERED = auto()
    #: to every key, as it leads to no application
    ANY_KEY = auto()


@dataclass(frozen=True, slots=True)
class Procedure:
    """`gives` is the type of what it answers, None where it answers nothing; `needs` what a key must be allowed.

    A key that is restricted is held to what it is for as `access` says: unless said otherwise, by the ids in the input.
    """

    name: str
    kind: Literal["query", "mutation"]
    takes: type[Input]
    run: Callable[[Context, Any], Awaitable[Answer]]
    gives: Any = Any
    needs: Permission | None = None
    #: what may come of it beside what its shape tells
    raises: tuple[type[GatewayError], ...] = ()
    #: its answer names the deployment that was queued, in the header X-Deployment-Id
    queues: bool = False
    access: KeyAccess = KeyAccess.BY_ID
    authorized_by: frozenset[str] = frozenset()

    @property
    def router(self) -> str:
        return self.name.partition(".")[0]

    @property
    def permission(self) -> Permission:
        """What a key must be allowed: unless said otherwise, to see for a query, everything for a mutation."""
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


class Procedures(list[Procedure]):
    """The procedures of one module. Its decorators add the function below them, and return it as it is.

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
