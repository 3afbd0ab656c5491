"""tRPC and REST parse every input as Dokploy does, and never answer with an internal error."""

import io
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc import superjson, trpc
from gateway.model.errors import InvalidInput
from tests.support.api_client import Web

APP = {"applicationId": "app-123"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def app(web: Web) -> Web:
    await web.mutate("application.create", name="app", dockerImage="acme/app", **APP)
    return web


async def ask(web: Web, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    sent = {"x-api-key": web.key, **{name.replace("_", "-"): value for name, value in headers.items()}}
    given = None if body is None else io.BytesIO(body)
    skipped = () if "Content-Type" in sent else ("Content-Type",)
    async with web.client.request(method, path, data=given, headers=sent, skip_auto_headers=skipped) as answer:
        raw = await answer.read()
        return answer.status, orjson.loads(raw) if raw else b"", answer.headers


# -- what is sent


@pytest.mark.parametrize(
    "body",
    [b"[]", b"[1]", b'"text"', b"7", b"true", b"null", b"{", b"", b"[" * 5000, b'{"applicationId": NaN}', b"\xff\xfe",
     b'{"applicationId": 1e999}', b'{"applicationId": "\\ud800"}', b'{"applicationId": "\\u0000"}', b'{"": {}}',
     b'{"applicationId": ' + b"9" * 400 + b"}", b'{"applicationId": ' + b'{"a":' * 900 + b"1" + b"}" * 901],
)  # fmt: skip
async def test_an_invalid_input_is_rejected_on_both_surfaces(app: Web, body: bytes) -> None:
    status, told, _ = await ask(app, "POST", "/api/application.redeploy", body, **JSON)
    assert (status, told["data"]["code"]) == (400, "BAD_REQUEST")
    status, told, _ = await ask(app, "POST", "/api/trpc/application.redeploy", body, **JSON)
    assert (status, told["error"]["json"]["code"]) == (400, -32600)
    assert await app.count("deployments") == 0


async def test_an_escaped_backslash_is_not_a_zero_byte(app: Web) -> None:
    raw = b'{"applicationId": "app-123", "description": "a \\\\u0000 spelt out"}'
    assert (await ask(app, "POST", "/api/application.update", raw, **JSON))[0] == 200
    found = await app.query("application.one", **APP)
    assert found["description"] == "a \\u0000 spelt out"


async def test_an_unsupported_content_type_is_named(app: Web) -> None:
    for path in ("/api/application.redeploy", "/api/trpc/application.redeploy"):
        for headers, message in (
            ({}, "Missing content-type header"),
            ({"Content-Type": "text/plain"}, 'Unsupported content-type "text/plain"'),
            ({"Content-Type": "application/jsonx"}, 'Unsupported content-type "application/jsonx"'),
        ):
            status, told, _ = await ask(app, "POST", path, orjson.dumps(APP), **headers)
            assert (status, told.get("message") or told["error"]["json"]["message"]) == (415, message)
        kind = {"Content-Type": "Application/JSON; charset=utf-8"}
        assert (await ask(app, "POST", path, orjson.dumps(APP), **kind))[0] == 200


async def test_a_query_is_flat_and_coerced_only_where_it_says_so(web: Web) -> None:
    assert (await web.get("/api/project.search", limit="5", offset="0", q=""))[0] == 200
    for wrong in ({"limit": "five"}, {"limit": "null"}, {"limit": "0"}, {"q": "\0"}):
        status, told = await web.get("/api/project.search", **wrong)
        assert (status, [one["path"] for one in told["issues"]]) == (400, [list(wrong)])
    status, told, _ = await ask(web, "GET", "/api/project.search?limit=1&limit=2")
    assert (status, told["issues"][0]["path"]) == (400, ["limit"])


async def test_null_is_never_a_number(app: Web) -> None:
    given = {**APP, "webhook": None, "seconds": "soon"}
    status, told = await app.post("/api/subscription.reconcile", given)
    assert (status, told["issues"][0]["path"]) == (400, ["seconds"])
    await app.mutate("application.update", **APP, replicas=None, previewPort=None)
    found = await app.query("application.one", **APP)
    assert (found["replicas"], found["previewPort"]) == (1, None)


@pytest.mark.parametrize("given", ["", "{}", '{"json":null,"meta":{"values":["undefined"]}}', '{"json":{}}', "null"])
async def test_a_query_without_an_input_accepts_every_empty_form(web: Web, given: str) -> None:
    status, answer, _ = await ask(web, "GET", f"/api/trpc/project.all?input={given}")
    assert (status, answer) == (200, {"result": {"data": {"json": []}}})


async def test_an_undefined_value_is_absent(app: Web) -> None:
    given = {**APP, "dockerImage": None, "description": "kept"}
    envelope = {"json": given, "meta": {"values": {"dockerImage": ["undefined"]}, "v": 1}}
    assert (await app.post("/api/trpc/application.update", envelope))[0] == 200
    found = await app.query("application.one", **APP)
    assert (found["dockerImage"], found["description"]) == ("acme/app", "kept")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, {"a": None, "b": [1, None], "c.d": None}),
        ({"a": ["undefined"]}, {"b": [1, None], "c.d": None}),
        ({"c\\.d": ["undefined"], "b.1": ["undefined"]}, {"a": None, "b": [1, None]}),
        ({"b.0": ["bigint"], "b.7": ["undefined"], "x.y.z": ["undefined"]}, {"a": None, "b": [1, None], "c.d": None}),
        ({"b": ["set", {"1": ["undefined"]}]}, {"a": None, "b": [1, None], "c.d": None}),
        ([{"a": ["undefined"]}], {"a": None, "b": [1, None], "c.d": None}),
        ("nonsense", {"a": None, "b": [1, None], "c.d": None}),
    ],
)
def test_superjson_types_are_applied_or_ignored(values: Any, expected: Any) -> None:
    assert expected == superjson.revive({"a": None, "b": [1, None], "c.d": None}, values)


def test_numbers_outside_json_and_endless_annotations_are_rejected() -> None:
    assert superjson.revive({"a": "123"}, {"a": ["bigint"]}) == {"a": 123}
    deep: Any = ["undefined"]
    for _ in range(100):
        deep = {"a": deep}
    for values in ({"a": ["number"]}, {str(number): ["undefined"] for number in range(20_000)}, deep):
        with pytest.raises(InvalidInput):
            superjson.revive({"a": "NaN"}, values)


# -- what is answered


def sent(value: Any) -> Any:
    return orjson.loads(superjson.dumps(trpc.result(value)))["result"]["data"]


def test_dates_are_annotated_in_meta() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    text = "2026-01-02T03:04:05.678Z"
    assert sent({"a": [{"b.c": at}], "d": None}) == {
        "json": {"a": [{"b.c": text}], "d": None},
        "meta": {"values": {"a.0.b\\.c": ["Date"]}, "v": 1},
    }
    assert sent(at) == {"json": text, "meta": {"values": ["Date"], "v": 1}}
    assert sent({"a": text}) == {"json": {"a": text}}


async def test_the_dates_of_a_user_are_dates_to_trpc_and_text_to_rest(web: Web) -> None:
    _, wrapped, headers = await ask(web, "GET", "/api/trpc/user.get")
    data = wrapped["result"]["data"]
    assert headers["Vary"] == "trpc-accept"
    assert {"createdAt": ["Date"]}.items() <= data["meta"]["values"].items()
    status, bare, _ = await ask(web, "GET", "/api/user.get")
    assert (status, bare) == (200, data["json"])
    assert data["json"]["createdAt"].endswith("Z")


async def test_an_empty_answer_is_an_empty_body_of_type_json(app: Web) -> None:
    status, body, headers = await ask(app, "POST", "/api/application.redeploy", orjson.dumps(APP), **JSON)
    assert (status, body, headers["Content-Length"], headers["Content-Type"]) == (200, b"", "0", "application/json")


async def test_a_batch_by_get_answers_each_in_its_place(app: Web) -> None:
    given = '{"0":{"json":{"applicationId":"app-123"}},"1":{"applicationId":"nobody"}}'
    path = "/api/trpc/application.one,application.one,settings.health?batch=1&input="
    status, answer, headers = await ask(app, "GET", path + given)
    assert (status, headers["Vary"]) == (207, "trpc-accept")
    assert answer[0]["result"]["data"]["json"]["applicationId"] == "app-123"
    assert answer[1]["error"]["json"]["data"]["path"] == "application.one"
    assert answer[2] == {"result": {"data": {"json": {"status": "ok"}}}}
    status, answer, _ = await ask(app, "GET", "/api/trpc/settings.health,settings.health?batch=1")
    assert (status, len(answer)) == (200, 2)
    assert (await ask(app, "GET", "/api/trpc/settings.health,settings.health"))[0] == 404


# -- methods, paths, keys


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_rejected(app: Web, method: str) -> None:
    for name in ("application.redeploy", "application.one"):
        assert (await ask(app, method, f"/api/{name}", orjson.dumps(APP), **JSON))[0] == 404
        status, told, headers = await ask(app, method, f"/api/trpc/{name}", orjson.dumps(APP), **JSON)
        allowed = "POST" if name.endswith("redeploy") else "GET"
        assert (status, told["error"]["json"]["code"], headers["Allow"]) == (405, -32005, allowed)
    assert await app.count("deployments") == 0


async def test_a_head_request_gets_204(app: Web) -> None:
    for path in ("/api/settings.health", "/api/nothing.here", "/api/trpc/settings.health"):
        assert (await ask(app, "HEAD", path))[:2] == (204, b"")
    async with app.client.head("/api/settings.health") as answer:
        assert answer.status == 401


@pytest.mark.parametrize("path", ["/api/nothing.here", "/api/application/redeploy", "/api/", "/api/a/b/c", "/api/%00"])
async def test_an_unknown_path_is_not_found_with_a_key(web: Web, path: str) -> None:
    status, told, _ = await ask(web, "GET", path)
    assert (status, told) == (
        404,
        {
            "message": "Not found",
            "code": "NOT_FOUND",
            "data": {"code": "NOT_FOUND", "httpStatus": 404, "zodError": None},
        },
    )
    async with web.client.get(path) as answer:
        assert (answer.status, await answer.json()) == (401, {"message": "Unauthorized"})


async def test_procedure_names_are_accepted_in_any_case(app: Web) -> None:
    for path in ("/api/APPLICATION.REDEPLOY", "/api/trpc/Application.Redeploy", "/api//application.redeploy"):
        assert (await ask(app, "POST", path, orjson.dumps(APP), **JSON))[0] == 200


async def test_a_key_is_accepted_only_in_its_own_header(web: Web) -> None:
    for headers in ({"Authorization": f"Bearer {web.key}"}, {"Cookie": f"x-api-key={web.key}"}):
        async with web.client.get("/api/settings.health", headers=headers) as answer:
            assert (answer.status, await answer.json()) == (401, {"message": "Unauthorized"})
    twice = [("x-api-key", web.key), ("X-API-KEY", "another")]
    for path in ("/api/settings.health", "/api/trpc/settings.health"):
        async with web.client.get(path, headers=twice) as answer:
            assert answer.status == 401


async def test_a_too_large_body_is_answered_in_the_envelope_of_its_surface(app: Web) -> None:
    body = orjson.dumps({**APP, "title": "x" * 2_000_000})
    status, told, _ = await ask(app, "POST", "/api/application.redeploy", body, **JSON)
    assert (status, told["code"]) == (413, "PAYLOAD_TOO_LARGE")
    status, told, _ = await ask(app, "POST", "/api/trpc/application.redeploy", body, **JSON)
    assert (status, told["error"]["json"]["code"]) == (413, -32013)


async def test_a_batch_of_queries_may_be_long(app: Web) -> None:
    names = ",".join(["application.one"] * 40)
    given = orjson.dumps({str(number): {"json": {**APP, "padding": "x" * 400}} for number in range(40)}).decode()
    status, answer, _ = await ask(app, "GET", f"/api/trpc/{names}?batch=1&input={given}")
    assert (status, len(answer)) == (200, 40)


# -- what costs more than its length


@pytest.mark.parametrize("path", ["a" * 20_000 + "\\", "9" * 5000, "b." + "9" * 5000, "b." + "9" * 25])
def test_an_annotation_of_an_absent_value_is_ignored(path: str) -> None:
    assert superjson.revive({"b": [1]}, {path: ["undefined"]}) == {"b": [1]}


@pytest.mark.parametrize("name", ["9" * 25, "9" * 5000, "²", "A" * 30_000])
async def test_a_zero_byte_is_rejected_naming_its_field(app: Web, name: str) -> None:
    for given in ({name: "\0"}, {name: {"deep": "\0"}}, {name: [0, "\0"]}, {name: {"\0": 0}}):
        for path in ("/api/application.update", "/api/trpc/application.update"):
            status, told = await app.post(path, {**APP, **given})
            assert status == 400, told
            assert name in str(told)


def test_the_number_of_values_in_an_input_is_limited() -> None:
    accepted: tuple[Any, ...] = ([0] * 20_000, {str(one): one for one in range(20_000)}, {"json": {"a": [[]] * 19_990}})
    for given in accepted:
        assert trpc.parse_json(orjson.dumps(given)) == given
    refused: tuple[Any, ...] = ([0] * 20_001, {"a": ["", [0] * 20_000]})
    for given in refused:
        with pytest.raises(InvalidInput, match="at most 20000 values"):
            trpc.parse_json(orjson.dumps(given))
    assert trpc.parse_json(orjson.dumps("," * 30_000)) == "," * 30_000


async def test_at_most_a_hundred_issues_are_reported(app: Web) -> None:
    status, told = await app.post("/api/application.update", {**APP, "args": [0] * 15_000})
    assert (status, len(told["issues"])) == (400, 100)


async def test_a_byte_order_mark_is_ignored(app: Web) -> None:
    for path in ("/api/application.update", "/api/trpc/application.update"):
        body = b"\xef\xbb\xbf" + orjson.dumps({**APP, "description": path})
        assert (await ask(app, "POST", path, body, **JSON))[0] == 200
        assert (await app.query("application.one", **APP))["description"] == path


# -- numbers beyond what is counted


def _integers(field: Any) -> bool:
    kinds = (field, *field.get("anyOf", ()))
    return any(one.get("type") in {"integer", "number"} for one in kinds)


@pytest.mark.parametrize("number", [2**63, -1e300])
async def test_a_number_beyond_the_database_range_is_rejected_in_every_field(app: Web, number: float) -> None:
    for procedure in PROCEDURES.values():
        fields = procedure.takes.model_json_schema().get("properties", {})
        for name in filter(lambda name: _integers(fields[name]), fields):
            given = {**APP, "projectId": "x", "name": "n", name: number}
            body = b'{"json":%s}' % json.dumps(given).encode()
            if procedure.kind == "query":
                answer = await ask(app, "GET", f"/api/trpc/{procedure.name}?input={quote(body)}")
            else:
                answer = await ask(app, "POST", f"/api/trpc/{procedure.name}", body, **JSON)
            assert answer[0] == 400, (procedure.name, name)


@pytest.mark.parametrize("number", [2**63, 1e30])
async def test_a_number_beyond_the_database_range_is_rejected_within_an_object(app: Web, number: float) -> None:
    for more in (
        {"ulimitsSwarm": [{"Name": "nofile", "Soft": number, "Hard": number}]},
        {"healthCheckSwarm": {"Test": ["CMD", "true"], "Interval": number}},
        {"updateConfigSwarm": {"Parallelism": number}},
        {"modeSwarm": {"Replicated": {"Replicas": number}}},
        {"restartPolicySwarm": {"Delay": number}},
        {"ports": [{"targetPort": number, "publishedPort": 1}]},
    ):
        body = json.dumps({**APP, **more}).encode()
        assert (await ask(app, "POST", "/api/application.update", body, **JSON))[0] == 400, more
