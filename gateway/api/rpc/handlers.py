"""The two ways to call procedures: tRPC at /api/trpc/{procedure}, and REST at /api/{procedure}."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from gateway.api.local_users import CLIENT, SERVER_VERSION
from gateway.api.request_body import printable, read_body
from gateway.api.rpc import superjson, trpc
from gateway.api.rpc.auth import authenticate
from gateway.api.rpc.concurrency import CONCURRENCY_LIMITS
from gateway.api.rpc.dispatch import CallError, answer, find, load, method_of, problem_of, retry_after
from gateway.api.rpc.procedure import Answer, Procedure
from gateway.api.rpc.trpc import UNDEFINED, Problem
from gateway.model.api_keys import Caller
from gateway.model.errors import GatewayError, InvalidInput
from gateway.version import VERSION

_UNAUTHORIZED = Problem(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED")
_DISCONNECTED = Problem(HTTPStatus.BAD_REQUEST, "the client has disconnected")
_MAX_ANSWERS = 16 << 20  # bytes of answers in a batch, after which its other calls fail
_TOO_MUCH = Problem(
    HTTPStatus.BAD_REQUEST, f"the answers to the batch have more than {_MAX_ANSWERS} bytes: send fewer calls"
)
_MAX_CALLS = 50  # in one batch


# -- tRPC


async def trpc_call(request: web.Request) -> web.Response:
    """Answer one call, or a batch of calls, always in superjson's envelope."""
    if request.method == "HEAD":
        return web.Response(status=HTTPStatus.NO_CONTENT)
    named = printable(request.match_info["procedure"])
    batch = request.query.get("batch") == "1"
    names = named.split(",") if batch else [named]
    if len(names) > _MAX_CALLS:
        return _trpc_problem(
            Problem(HTTPStatus.BAD_REQUEST, f"a batch has at most {_MAX_CALLS} calls"), names[0], batch=batch
        )
    try:
        caller = await authenticate(request, calls=len(names))
        # Without a valid key, the input is not read.
        given = [None] * len(names) if caller is None else await _trpc_inputs(request, len(names), batch=batch)
        await load(request, *names)
    except (CallError, GatewayError) as error:
        return _trpc_problem(problem_of(error), names[0], batch=batch, headers=retry_after(error))
    results = _Results(line=batch and request.headers.get("trpc-accept") == "application/jsonl")
    async with request.app[CONCURRENCY_LIMITS].hold(caller):
        for name, one in zip(names, given, strict=True):
            try:
                _check_batch(request, name, results.size)
                results.add(await _trpc_answer(request, name, one, caller))
            except CallError as error:
                results.add_problem(name, error.problem, find(request, name))
    return results.response(batch=batch)


class _Results:
    """The results of the calls of a batch. A `line` is built from envelopes; others are kept as their JSON.

    JSON takes a tenth of the memory of an envelope.
    """

    def __init__(self, *, line: bool) -> None:
        self.size = 0  # bytes of JSON
        self._line = line
        self._envelopes: list[Any] = []
        self._statuses: list[int] = []
        self._headers: dict[str, str] = {}

    def add(self, answered: Answer) -> None:
        envelope = trpc.result(answered.value)
        encoded = superjson.dumps(envelope)
        self.size += len(encoded)
        self._envelopes.append(envelope if self._line else orjson.Fragment(encoded))
        self._statuses.append(int(HTTPStatus.OK))
        self._headers.update(answered.headers)

    def add_problem(self, name: str, problem: Problem, procedure: Procedure | None) -> None:
        self._envelopes.append(trpc.error(problem, name))
        self._statuses.append(int(problem.status))
        if procedure is not None and problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self._headers["Allow"] = method_of(procedure)

    def response(self, *, batch: bool) -> web.Response:
        if self._line:
            return _line(self._envelopes, self._headers)
        envelopes = self._envelopes if batch else self._envelopes[0]
        return _trpc_json(envelopes, trpc.batch_status(self._statuses), self._headers)


def _check_batch(request: web.Request, name: str, size: int) -> None:
    """Raise CallError where the client of a query has disconnected, or the batch's answers are too large."""
    disconnected, procedure = request.transport is None or request.transport.is_closing(), find(request, name)
    if disconnected and procedure is not None and procedure.kind == "query":
        raise CallError(_DISCONNECTED)
    if size > _MAX_ANSWERS:
        raise CallError(_TOO_MUCH)


async def _trpc_answer(request: web.Request, name: str, given: Any, caller: Caller | None) -> Answer:
    """Answer one call of a batch; whether a procedure exists is said without a key, too."""
    procedure = find(request, name)
    if procedure is None:
        raise CallError(Problem(HTTPStatus.NOT_FOUND, f'No procedure found on path "{name}"'))
    if request.method != method_of(procedure):
        message = f'Unsupported {request.method}-request to {procedure.kind} procedure at path "{name}"'
        raise CallError(Problem(HTTPStatus.METHOD_NOT_ALLOWED, message))
    if caller is None:
        raise CallError(_UNAUTHORIZED)
    return await answer(request, procedure, {} if given is None else given, caller)


def _line(envelopes: list[Any], headers: Mapping[str, str]) -> web.Response:
    """Answer a client that streams: status 200, and all answers in one line."""
    body = superjson.dumps(trpc.line(envelopes), option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, headers={**headers, "Content-Type": "application/json", "Vary": "trpc-accept"})


async def _trpc_inputs(request: web.Request, count: int, *, batch: bool) -> list[Any]:
    if request.method == "POST":
        parsed = trpc.parse_json(await _body(request))
    else:
        parsed = trpc.parse_json(request.query.get("input", "").encode())
    return trpc.unwrap_batch(parsed, count) if batch else [trpc.unwrap(parsed)]


def _trpc_problem(
    problem: Problem, path: str, *, batch: bool, headers: Mapping[str, str] | None = None
) -> web.Response:
    envelope = trpc.error(problem, path)
    return _trpc_json([envelope] if batch else envelope, problem.status, headers)


def _trpc_json(value: Any, status: int, headers: Mapping[str, str] | None) -> web.Response:
    return _json(value, status, {"Vary": "trpc-accept", **(headers or {})})


# -- REST


async def rest_call(request: web.Request) -> web.Response:
    """Answer one call with its bare value; a procedure without an answer has an empty body.

    The command line gets the version of the gateway.
    """
    response = await _rest_answer(request)
    if CLIENT in request.headers and response.status != HTTPStatus.UNAUTHORIZED:
        response.headers[SERVER_VERSION] = VERSION
    return response


async def _rest_answer(request: web.Request) -> web.Response:
    name = printable(request.match_info.get("procedure", ""))
    try:
        caller = await authenticate(request)
        if caller is None:
            return _json({"message": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        if request.method == "HEAD":
            return web.Response(status=HTTPStatus.NO_CONTENT)
        await load(request, name)
        procedure = find(request, name)
        if procedure is None or not _may_be_called_by(request, procedure):
            return _json(trpc.rest_error(Problem(HTTPStatus.NOT_FOUND, "Not found"), None), HTTPStatus.NOT_FOUND)
        given = await _rest_input(request)
        async with request.app[CONCURRENCY_LIMITS].hold(caller):
            answered = await answer(request, procedure, given, caller)
    except (CallError, GatewayError) as error:
        problem = problem_of(error)
        return _json(trpc.rest_error(problem, name), problem.status, retry_after(error))
    if answered.value is UNDEFINED:
        return web.Response(headers={"Content-Type": "application/json", **answered.headers})
    return _json(answered.value, HTTPStatus.OK, answered.headers)


def _may_be_called_by(request: web.Request, procedure: Procedure) -> bool:
    """Tell whether the method is the procedure's. The command line sends each call as a POST."""
    return request.method == method_of(procedure) or (request.method == "POST" and CLIENT in request.headers)


async def _rest_input(request: web.Request) -> Any:
    """Return the input. In a query string an empty value is absent, and a repeated name is a list."""
    if request.method == "POST":
        body = await _body(request)
        return trpc.parse_json(body) if body.strip() else {}
    given: dict[str, Any] = {}
    for name in request.query:
        values = [value for value in request.query.getall(name) if value]
        if any("\0" in value for value in values):
            raise InvalidInput("a zero byte cannot be stored", field=name)
        given |= {name: values[0] if len(values) == 1 else values} if values else {}
    return given


# -- both


async def _body(request: web.Request) -> bytes:
    kind = printable(request.headers.get("Content-Type", ""))
    if not kind:
        raise CallError(Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Missing content-type header"))
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise CallError(Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f'Unsupported content-type "{kind}"'))
    return await read_body(request)


def _json(value: Any, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=superjson.dumps(value), status=int(status), headers={**(headers or {}), "Content-Type": "application/json"}
    )
