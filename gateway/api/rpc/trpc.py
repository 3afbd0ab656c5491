"""The wire format of tRPC 11 with superjson: parse calls, build envelopes. It performs no I/O.

https://trpc.io/docs/rpc and https://github.com/flightcontrolhq/superjson
"""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NotRequired

import orjson
from typing_extensions import TypedDict

from gateway.api.rpc import superjson
from gateway.model.errors import InvalidInput

#: the answer of a procedure that returns nothing
UNDEFINED = object()
# A parser may ignore a byte order mark: https://www.rfc-editor.org/rfc/rfc8259#section-8.1
_MARK = codecs.BOM_UTF8
_MAX_VALUES = 20_000  # in one input; each may cause an issue in the answer
_SIGNS = (b",", b"[", b"{")  # each begins a value, unless it is inside a text
_UNDEFINED_META = {"values": ["undefined"], "v": 1}

# https://github.com/trpc/trpc/blob/main/packages/server/src/unstable-core-do-not-import/rpc/codes.ts
_CODES = {
    HTTPStatus.BAD_REQUEST: ("BAD_REQUEST", -32600),
    HTTPStatus.UNAUTHORIZED: ("UNAUTHORIZED", -32001),
    HTTPStatus.FORBIDDEN: ("FORBIDDEN", -32003),
    HTTPStatus.NOT_FOUND: ("NOT_FOUND", -32004),
    HTTPStatus.METHOD_NOT_ALLOWED: ("METHOD_NOT_SUPPORTED", -32005),
    HTTPStatus.CONFLICT: ("CONFLICT", -32009),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("PAYLOAD_TOO_LARGE", -32013),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("UNSUPPORTED_MEDIA_TYPE", -32015),
    HTTPStatus.TOO_MANY_REQUESTS: ("TOO_MANY_REQUESTS", -32029),
    HTTPStatus.SERVICE_UNAVAILABLE: ("SERVICE_UNAVAILABLE", -32603),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("INTERNAL_SERVER_ERROR", -32603),
}
_MAX_NAMED = 5  # issues in a message
STATUSES = frozenset(_CODES)


class Unauthorized(TypedDict):
    """The call has no API key, or one that is not valid."""

    message: str


class Issue(TypedDict):
    """What is wrong with one field, in zod's format."""

    code: str
    path: list[str | int]
    message: str


class Flattened(TypedDict):
    """The issues, by field."""

    formErrors: list[str]
    fieldErrors: dict[str, list[str]]


class ErrorData(TypedDict):
    """What went wrong, for programs."""

    code: str
    httpStatus: int
    path: NotRequired[str]
    zodError: Flattened | None


class RestError(TypedDict):
    """The error of a REST call."""

    message: str
    code: str
    data: ErrorData
    issues: NotRequired[list[Issue]]


class TrpcErrorShape(TypedDict):
    """What went wrong, for people and for programs."""

    message: str
    code: int
    data: ErrorData


class _Enveloped(TypedDict):
    json: TrpcErrorShape


class TrpcError(TypedDict):
    """The error of a tRPC call."""

    error: _Enveloped


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a call was not answered. `issues` name each field that was wrong, as zod does."""

    status: HTTPStatus
    message: str
    issues: tuple[Issue, ...] = ()

    @property
    def code(self) -> str:
        return _CODES[self.status][0]

    @property
    def number(self) -> int:
        return _CODES[self.status][1]


def parse_json(body: bytes) -> Any:
    """Return the body's JSON, None for an empty body; raises InvalidInput."""
    body = body.removeprefix(_MARK)
    if not body.strip():
        return None
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"Invalid JSON: {error}") from error
    if sum(map(body.count, _SIGNS)) >= _MAX_VALUES:
        _check_count(parsed)
    if b"\\u0000" in body:
        _check_zero_bytes(parsed)
    return parsed


def _check_count(value: Any) -> None:
    waiting, seen = [value], 0
    while waiting:
        found = waiting.pop()
        inside = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else ()
        seen += len(inside)
        if seen > _MAX_VALUES:
            raise InvalidInput(f"an input has at most {_MAX_VALUES} values")
        waiting += inside


def _check_zero_bytes(value: Any) -> None:
    """Raise InvalidInput for the first text with a zero byte, naming its field."""
    #: for each visited object or list its parent's index and its name there, to build the path of one field only
    above: list[tuple[int, str | int]] = []
    waiting: list[tuple[int, str | int, Any]] = [(-1, "", value)]
    while waiting:
        around, name, found = waiting.pop()
        if isinstance(found, str):
            if "\0" in found:
                raise InvalidInput("a zero byte cannot be stored", field=_field(above, around, name))
        elif isinstance(found, dict | list):
            here = len(above)
            above.append((around, name))
            if isinstance(found, dict):
                if any("\0" in one for one in found):
                    raise InvalidInput("a zero byte cannot be stored", field=_field(above, around, name))
                waiting += [(here, one, inside) for one, inside in found.items()]
            else:
                waiting += [(here, number, inside) for number, inside in enumerate(found)]


def _field(above: Sequence[tuple[int, str | int]], around: int, name: str | int) -> str | None:
    """Return the path to a field, without the envelope; None for the input itself."""
    parts = [] if around < 0 else [str(name)]
    while around > 0:
        around, name = above[around]
        parts.append(str(name))
    parts.reverse()
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] == "json" else parts) or None


def unwrap(given: Any) -> Any:
    """Return the input of a call, in superjson's envelope or plain: `{"json": {…}}` or `{…}`."""
    if isinstance(given, dict) and "json" in given and set(given) <= {"json", "meta"}:
        meta = given.get("meta")
        return superjson.revive(given["json"], meta.get("values") if isinstance(meta, dict) else None)
    return given


def unwrap_batch(given: Any, count: int) -> list[Any]:
    """Return the inputs of a batch of `count` calls, `{"0": …, "1": …}`; a missing one is None."""
    if given is not None and not isinstance(given, dict):
        raise InvalidInput("a batch is an object with the inputs by number")
    return [unwrap((given or {}).get(str(number))) for number in range(count)]


def result(value: Any) -> dict[str, Any]:
    """Return the envelope of an answer, for `superjson.dumps`."""
    if value is UNDEFINED:
        return {"result": {"data": {"json": None, "meta": _UNDEFINED_META}}}
    dates = superjson.date_types(value)
    return {"result": {"data": {"json": value} | ({"meta": {"values": dates, "v": 1}} if dates else {})}}


def error(problem: Problem, path: str) -> TrpcError:
    message = problem.message
    if problem.issues:
        message = orjson.dumps(list(problem.issues), option=orjson.OPT_INDENT_2).decode()
    return {
        "error": {
            "json": {
                "message": message,
                "code": problem.number,
                "data": _data(problem, path),
            }
        }
    }


def line(envelopes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a batch as one line of application/jsonl, a stream with all answers ready.

    There superjson wraps the line, and not each value in it.
    """
    answers: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for number, envelope in enumerate(envelopes):
        if "error" in envelope:
            answers[str(number)] = [[{"error": envelope["error"]["json"]}]]
            continue
        data = envelope["result"]["data"]
        answers[str(number)] = [[{"result": {"data": data["json"]}}]]
        values = data.get("meta", {}).get("values", {})
        path = f"{number}.0.0.result.data"
        types |= {path: values} if isinstance(values, list) else {f"{path}.{at}": type_ for at, type_ in values.items()}
    return {"json": answers} | ({"meta": {"values": types, "v": 1}} if types else {})


def rest_error(problem: Problem, path: str | None) -> RestError:
    """Return the body of a REST error."""
    answer: RestError = {
        "message": _message(problem.issues) if problem.issues else problem.message,
        "code": problem.code,
        "data": _data(problem, path),
    }
    if problem.issues:
        answer["issues"] = list(problem.issues)
    return answer


def _message(issues: Sequence[Issue]) -> str:
    """Return a message with the wrong fields and why: many programs show only the message."""
    problems = [": ".join(filter(None, (".".join(map(str, one["path"])), one["message"]))) for one in issues]
    more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
    return f"Input validation failed: {'; '.join(problems[:_MAX_NAMED])}{more}"


def _data(problem: Problem, path: str | None) -> ErrorData:
    found: ErrorData = {
        "code": problem.code,
        "httpStatus": int(problem.status),
        "zodError": flattened(problem.issues),
    }
    if path is not None:
        found["path"] = path
    return found


def flattened(issues: Sequence[Issue]) -> Flattened | None:
    if not issues:
        return None
    fields: dict[str, list[str]] = {}
    for issue in issues:
        if issue["path"]:
            fields.setdefault(str(issue["path"][0]), []).append(issue["message"])
    return {"formErrors": [issue["message"] for issue in issues if not issue["path"]], "fieldErrors": fields}


def batch_status(statuses: Sequence[int]) -> int:
    """Return the status of a batch: the one that all its calls have, else 207."""
    return statuses[0] if len(set(statuses)) == 1 else int(HTTPStatus.MULTI_STATUS)
