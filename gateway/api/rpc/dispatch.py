"""Call a procedure for tRPC and REST alike: find, authorize, run, audit; and say why a call failed."""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import asyncpg
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api import audit
from gateway.api.context import CONTEXT, SHARE
from gateway.api.local_users import COMMAND, actor_of
from gateway.api.notify import notify_workers
from gateway.api.rpc.auth import address_text, authorize
from gateway.api.rpc.procedure import Answer, Procedure
from gateway.api.rpc.trpc import Issue, Problem
from gateway.model.api_keys import Caller
from gateway.model.audit import CURRENT_ACTOR
from gateway.model.errors import Forbidden, GatewayError, InvalidInput, Throttled
from gateway.store.database import repeat_on_conflict

_LOG = structlog.get_logger()
_LONGEST_ERROR = 300  # characters in the log
_MOST_ISSUES = 100  # of one input in an answer

# pydantic's messages name our own types, which mean nothing to the caller.
_KINDS = {
    "missing": "Invalid input: expected nonoptional, received undefined",
    "model_type": "Invalid input: expected object",
    "dict_type": "Invalid input: expected object",
    "list_type": "Invalid input: expected array",
}


class CallError(Exception):
    """The call failed, and is answered with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Catalog(Mapping[str, Procedure]):
    """All procedures by name, which is found in any case. One that is asked for is loaded then."""

    @abstractmethod
    async def load(self, names: Collection[str] | None = None) -> None:
        """Load what these names need, or everything, and let other requests be answered meanwhile."""


PROCEDURES: web.AppKey[Catalog] = web.AppKey("procedures")


async def load(request: web.Request, *names: str) -> None:
    """Let the procedures of these names be found without delaying other requests."""
    await request.app[PROCEDURES].load(names)


def find(request: web.Request, name: str) -> Procedure | None:
    """Return the procedure of this name, in any case."""
    return request.app[PROCEDURES].get(name)


def method_of(procedure: Procedure) -> str:
    return "GET" if procedure.kind == "query" else "POST"


async def answer(request: web.Request, procedure: Procedure, given: Any, caller: Caller) -> Answer:
    """Run the procedure; raises CallError, and nothing else."""
    context = replace(request.app[CONTEXT], caller=caller, pool=request.app[SHARE])
    actor = actor_of(caller, procedure.name, address_text(request), request.headers.get(COMMAND, ""))
    token = CURRENT_ACTOR.set(actor if procedure.changes else None)
    try:
        parsed = await authorize(context, caller, procedure, given)
        answered = await run(procedure, context, parsed)
    except (GatewayError, ValidationError) as error:
        if procedure.changes or isinstance(error, Forbidden):
            audit.record_failure(request.app, actor, error, given)
        raise CallError(problem_of(error)) from error
    except Exception as error:
        _LOG.exception("A procedure failed on a defect", procedure=procedure.name)
        raise CallError(
            Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error: see the log of the gateway")
        ) from error
    finally:
        CURRENT_ACTOR.reset(token)
    if answered.changed:
        notify_workers(request.app)
    if procedure.changes:
        await audit.record_success(request.app, actor, given)
    return answered


async def run(procedure: Procedure, context: Context, parsed: Input) -> Answer:
    """Run an authorized procedure; raises GatewayError."""
    try:
        answered = await repeat_on_conflict(lambda: procedure.run(context, parsed))
    except asyncpg.DataError as error:
        # A number or a text that is valid by the input's schema, but beyond what the column holds.
        _LOG.warning("An input cannot be stored", procedure=procedure.name, error=str(error)[:_LONGEST_ERROR])
        raise InvalidInput("a number or a text of the input is beyond what can be stored") from error
    return replace(answered, value=plain(answered.value))


def plain(value: Any) -> Any:
    """Return dictionaries in place of models, and of models in a list. What else is answered is plain already.

    A list is changed, so that each model is released before the next dictionary is made: there may be thousands.
    """
    if isinstance(value, list):
        for place, one in enumerate(value):
            value[place] = plain(one)
        return value
    return value.model_dump(warnings=False) if isinstance(value, BaseModel) else value


def problem_of(error: Exception) -> Problem:
    match error:
        case CallError():
            return error.problem
        case ValidationError():
            issues = tuple(map(_issue, error.errors()[:_MOST_ISSUES]))
            return Problem(HTTPStatus.BAD_REQUEST, "Input validation failed", issues)
        case InvalidInput() if error.field:
            issue = Issue(code="custom", path=error.path, message=str(error))
            return Problem(HTTPStatus.BAD_REQUEST, str(error), (issue,))
        case GatewayError():
            return Problem(error.status, str(error))
        case _:
            raise error


def retry_after(error: Exception) -> dict[str, str]:
    """Return the Retry-After header of an error that has one."""
    return {"Retry-After": str(math.ceil(error.retry_after))} if isinstance(error, Throttled) else {}


def _issue(detail: Mapping[str, Any]) -> Issue:
    """Return what is wrong with a field, in zod's form."""
    known = _KINDS.get(detail["type"])
    return {
        "code": "invalid_type" if known or detail["type"].endswith("_type") else "custom",
        "path": list(detail["loc"]),
        "message": known or str(detail["msg"]).removeprefix("Value error, "),
    }
