"""One call of one procedure, whichever way it came in: found, allowed, run, and why it was not."""

import math
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import asyncpg
import structlog
from aiohttp import web
from pydantic import ValidationError

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api import audit
from gateway.api.context import CONTEXT, SHARE
from gateway.api.notify import tell
from gateway.api.rpc.auth import address, authorize
from gateway.api.rpc.procedure import Answer, Procedure
from gateway.api.rpc.trpc import Issue, Problem
from gateway.model.api_keys import Caller
from gateway.model.audit import CURRENT_ACTOR, Actor
from gateway.model.errors import Forbidden, GatewayError, InvalidInput, Throttled

_LOG = structlog.get_logger()
_LONGEST_ERROR = 300  # characters in the log
_MOST_ISSUES = 100  # of one input that are told

# What is said of our own types means nothing to who sent it.
_KINDS = {
    "missing": "Invalid input: expected nonoptional, received undefined",
    "model_type": "Invalid input: expected object",
    "dict_type": "Invalid input: expected object",
    "list_type": "Invalid input: expected array",
}


class Refused(Exception):
    """A call that is answered with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


#: all procedures, by their names in lower case
PROCEDURES: web.AppKey[Mapping[str, Procedure]] = web.AppKey("procedures")


def find(request: web.Request, name: str) -> Procedure | None:
    """Return the procedure of this name, in whichever case it is written."""
    return request.app[PROCEDURES].get(name.lower())


def method_of(procedure: Procedure) -> str:
    return "GET" if procedure.kind == "query" else "POST"


async def answer(request: web.Request, procedure: Procedure, given: Any, caller: Caller) -> Answer:
    """Run it; raises Refused, and nothing else."""
    context = replace(request.app[CONTEXT], caller=caller, pool=request.app[SHARE])
    actor = Actor("api", caller.name, procedure.name, caller.key_id, address(request))
    changes = procedure.kind == "mutation"
    token = CURRENT_ACTOR.set(actor if changes else None)
    try:
        understood = await authorize(context, caller, procedure, given)
        answered = await _run(procedure, context, understood)
    except (GatewayError, ValidationError) as error:
        if changes or isinstance(error, Forbidden):
            audit.not_done(request.app, actor, error, given)
        raise Refused(problem_of(error)) from error
    except Exception as error:
        _LOG.exception("A procedure failed on a defect", procedure=procedure.name)
        raise Refused(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error: the log has it")) from error
    finally:
        CURRENT_ACTOR.reset(token)
    if answered.changed:
        tell(request.app)
    if changes:
        await audit.done(request.app, actor, given)
    return answered


async def _run(procedure: Procedure, context: Context, understood: Input) -> Answer:
    try:
        return await procedure.run(context, understood)
    except asyncpg.DataError as error:
        # The last line: a number or a text beyond what a column holds, which the input's description lets through.
        _LOG.warning("An input cannot be stored", procedure=procedure.name, error=str(error)[:_LONGEST_ERROR])
        raise InvalidInput("a number or a text of the input is beyond what can be stored") from error


def problem_of(error: Exception) -> Problem:
    match error:
        case Refused():
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


def when(error: Exception) -> dict[str, str]:
    """Return what tells the caller when to come again."""
    return {"Retry-After": str(math.ceil(error.retry_after))} if isinstance(error, Throttled) else {}


def _issue(detail: Mapping[str, Any]) -> Issue:
    """Return a wrong field as zod would tell it."""
    known = _KINDS.get(detail["type"])
    return {
        "code": "invalid_type" if known or detail["type"].endswith("_type") else "custom",
        "path": list(detail["loc"]),
        "message": known or str(detail["msg"]).removeprefix("Value error, "),
    }
