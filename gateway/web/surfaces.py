"""The two ways in: tRPC at /api/trpc/{procedure}, and plain REST at /api/{procedure}, over the same procedures."""

import math
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from aiohttp import web
from pydantic import ValidationError

from gateway import trpc
from gateway.errors import GatewayError, InvalidInput, Throttled, TooLarge
from gateway.keys import Caller
from gateway.trpc import UNDEFINED, Issue, Problem
from gateway.web.admission import admit, authorize
from gateway.web.context import CONTEXT
from gateway.web.notifier import tell
from gateway.web.procedures import PROCEDURES, Answer, Procedure

_LOG = structlog.get_logger()
_UNAUTHORIZED = Problem(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED")
_MOST_CALLS = 50  # in one batch


class Refused(Exception):
    """A call that is answered with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


# -- tRPC


async def trpc_call(request: web.Request) -> web.Response:
    """Answer one call, or a batch of them, always in superjson's envelope."""
    names = request.match_info["procedure"].split(",")
    batch = request.query.get("batch") == "1"
    if len(names) > _MOST_CALLS or (len(names) > 1 and not batch):
        return _trpc_problem(Problem(HTTPStatus.BAD_REQUEST, "too many calls in one batch"), names[0], batch=batch)
    try:
        caller = await admit(request)
        given = await _trpc_inputs(request, len(names), batch=batch)
    except (Refused, GatewayError) as error:
        return _trpc_problem(_problem(error), names[0], batch=batch, headers=_when(error))
    envelopes: list[Any] = []
    statuses: list[int] = []
    headers: dict[str, str] = {}
    for name, one in zip(names, given, strict=True):
        try:
            answer = await _answer(request, name, one, caller)
        except Refused as refused:
            envelopes.append(trpc.error(refused.problem, name))
            statuses.append(int(refused.problem.status))
        else:
            envelopes.append(trpc.result(answer.value))
            statuses.append(int(HTTPStatus.OK))
            headers.update(answer.headers)
    if batch and request.headers.get("trpc-accept") == "application/jsonl":
        return _line(envelopes, headers)
    return _json(envelopes if batch else envelopes[0], trpc.batch_status(statuses), headers)


def _line(envelopes: list[Any], headers: Mapping[str, str]) -> web.Response:
    """Answer as to a client that streams: 200 whatever is in it, and the line ends it."""
    body = orjson.dumps(trpc.line(envelopes), option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, headers={**headers, "Content-Type": "application/json", "Vary": "trpc-accept"})


async def _trpc_inputs(request: web.Request, count: int, *, batch: bool) -> list[Any]:
    if request.method == "GET":
        text = request.query.get("input", "")
        parsed = trpc.parse_json(text.encode())
    else:
        parsed = trpc.parse_json(await _body(request))
    return trpc.unwrap_batch(parsed, count) if batch else [trpc.unwrap(parsed)]


def _trpc_problem(
    problem: Problem, path: str, *, batch: bool, headers: Mapping[str, str] | None = None
) -> web.Response:
    envelope = trpc.error(problem, path)
    return _json([envelope] if batch else envelope, problem.status, headers)


# -- REST


async def rest_call(request: web.Request) -> web.Response:
    """Answer one call with its bare value; nothing is an empty body."""
    name = request.match_info["procedure"]
    try:
        caller = await admit(request)
        if caller is None:
            return _json({"message": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        procedure = _find(name)
        if procedure is None or (procedure.kind == "query") is not (request.method == "GET"):
            return _json(trpc.rest_error(Problem(HTTPStatus.NOT_FOUND, "Not found"), None), HTTPStatus.NOT_FOUND)
        if request.method == "GET":
            given: Any = {key: value for key, value in request.query.items() if value != ""}
        else:
            given = trpc.parse_json(await _body(request)) or {}
        answer = await _answer(request, name, given, caller)
    except (Refused, GatewayError) as error:
        problem = _problem(error)
        return _json(trpc.rest_error(problem, name), problem.status, _when(error))
    if answer.value is UNDEFINED:
        return web.Response(headers={"Content-Type": "application/json", **answer.headers})
    return _json(answer.value, HTTPStatus.OK, answer.headers)


# -- both


def _find(name: str) -> Procedure | None:
    return PROCEDURES.get(name) or _BY_LOWER.get(name.lower())


_BY_LOWER = {name.lower(): procedure for name, procedure in PROCEDURES.items()}


async def _body(request: web.Request) -> bytes:
    kind = request.headers.get("Content-Type", "")
    if not kind:
        raise Refused(Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Missing content-type header"))
    if not kind.lower().startswith("application/json"):
        raise Refused(Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f'Unsupported content-type "{kind}"'))
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge("the body is larger than is accepted; GATEWAY_BODY_LIMIT says how large it may be") from error
    except (ConnectionError, web.RequestPayloadError) as error:
        raise InvalidInput("the body ended before its end, or is not encoded as its Content-Encoding says") from error


async def _answer(request: web.Request, name: str, given: Any, caller: Caller | None) -> Answer:
    """Run one procedure; raises Refused, and nothing else."""
    procedure = _find(name)
    if procedure is None:
        raise Refused(Problem(HTTPStatus.NOT_FOUND, f'No procedure found on path "{name}"'))
    if (procedure.kind == "query") is not (request.method == "GET"):
        message = f"Unsupported {request.method}-request to {procedure.kind} procedure at path {name!r}"
        raise Refused(Problem(HTTPStatus.METHOD_NOT_ALLOWED, message))
    if caller is None:
        raise Refused(_UNAUTHORIZED)
    context = replace(request.app[CONTEXT], caller=caller)
    try:
        understood = await authorize(context, caller, procedure, {} if given is None else given)
        answer = await procedure.run(context, understood)
    except (GatewayError, ValidationError) as error:
        raise Refused(_problem(error)) from error
    except Exception as error:
        _LOG.exception("A procedure failed on a defect", procedure=name)
        raise Refused(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error: the log has it")) from error
    if answer.changed:
        tell(request.app)
    return answer


def _problem(error: Exception) -> Problem:
    match error:
        case Refused():
            return error.problem
        case ValidationError():
            return Problem(HTTPStatus.BAD_REQUEST, "Input validation failed", tuple(map(_issue, error.errors())))
        case InvalidInput() if error.field:
            path: list[str | int] = [int(part) if part.isdigit() else part for part in error.field.split(".")]
            issue = Issue(code="custom", path=path, message=str(error))
            return Problem(HTTPStatus.BAD_REQUEST, str(error), (issue,))
        case GatewayError():
            return Problem(error.status, str(error))
        case _:
            raise error


def _when(error: Exception) -> dict[str, str]:
    """Return what tells the caller when to come again."""
    return {"Retry-After": str(math.ceil(error.retry_after))} if isinstance(error, Throttled) else {}


def _issue(detail: Mapping[str, Any]) -> Issue:
    """Return a wrong field as zod would tell it."""
    missing = detail["type"] == "missing"
    message = "Invalid input: expected nonoptional, received undefined" if missing else str(detail["msg"])
    return {
        "code": "invalid_type" if missing or detail["type"].endswith("_type") else "custom",
        "path": list(detail["loc"]),
        "message": message.removeprefix("Value error, "),
    }


def _json(value: Any, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=int(status), headers={**(headers or {}), "Content-Type": "application/json"}
    )
