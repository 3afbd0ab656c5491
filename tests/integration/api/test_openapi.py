"""The OpenAPI document and the API's pages describe the procedures as they are."""

import hashlib
import inspect
import re
from base64 import b64encode
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

from gateway.api import procedures
from gateway.api.docs import render
from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc.openapi import document
from gateway.api.rpc.procedure import Surface
from tests.support.api_client import Web
from tests.support.each_case import each_case

KNOWN_WORDS = {
    "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "exclusiveMaximum",
    "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum",
    "oneOf", "pattern", "prefixItems", "properties", "propertyNames", "required", "type", "uniqueItems", "x-kept",
}  # fmt: skip


@cache
def the_document(surface: Surface) -> dict[str, Any]:
    """Return what takes a second to make: not while tests are collected, which each worker does."""
    return document(PROCEDURES, surface, base="", version="1")


rest, trpc = partial(the_document, Surface.REST), partial(the_document, Surface.TRPC)


def operation(of: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = of["paths"][f"/{name}"].values()
    assert isinstance(found, dict)
    return found


def body(of: dict[str, Any], name: str) -> Any:
    return operation(of, name)["requestBody"]["content"]["application/json"]["schema"]


@each_case("name", PROCEDURES)
def test_each_procedure_has_a_summary_and_an_answer(name: str) -> None:
    procedure = PROCEDURES[name]
    assert inspect.getdoc(procedure.run)
    assert procedure.gives is not Any


def schemas_in(value: Any) -> list[dict[str, Any]]:
    """Return all schemas of a description, wherever they stand."""
    if isinstance(value, list):
        return [one for each in value for one in schemas_in(each)]
    if not isinstance(value, dict):
        return []
    here = [value["schema"]] if "schema" in value else []
    here += value.get("properties", {}).values() if isinstance(value.get("properties"), dict) else []
    return here + [one for each in value.values() for one in schemas_in(each)]


@pytest.mark.parametrize("surface", Surface)
def test_the_document_has_only_json_schema_keywords_and_resolvable_references(surface: Surface) -> None:
    described = the_document(surface)
    found = schemas_in(described) + list(described["components"]["schemas"].values())
    assert len(found) > 500
    assert set().union(*found) <= KNOWN_WORDS
    named = set(re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(described)))
    assert named == set(described["components"]["schemas"])


def test_the_fields_of_an_application_are_those_that_are_sent() -> None:
    made, changed = body(rest(), "application.create"), body(rest(), "application.update")
    assert made["required"] == ["name"]
    assert changed["required"] == ["applicationId"]
    for column in ("dockerImage", "memoryLimit", "replicas", "ports", "volumes", "labelsSwarm", "previewPort"):
        assert {"type": "null"} in changed["properties"][column]["anyOf"]
    assert not {"settings", "other"} & made["properties"].keys()
    assert made["properties"]["stopGracePeriodSwarm"]["anyOf"][0]["maximum"] == 3_600_000_000_000
    assert (made["properties"]["replicas"]["default"], "default" in str(changed)) == (1, False)


def test_client_generators_find_what_they_read() -> None:
    """Of dokli: a path of two words, a body that is an object by itself, a query of plain values."""
    for path, methods in rest()["paths"].items():
        (method, one), *_ = methods.items()
        assert re.fullmatch(r"/[a-zA-Z]+\.[a-zA-Z]+", path)
        assert one["operationId"] == path[1:].replace(".", "-")
        if method == "post":
            assert one["requestBody"]["content"]["application/json"]["schema"]["type"] == "object"
        else:
            for parameter in one["parameters"]:
                assert parameter["schema"].get("type") in {"string", "integer", "number", "boolean", None}
    assert rest()["components"]["securitySchemes"] == {
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"}
    }


def test_an_empty_answer_has_no_schema_and_a_row_has_its_own() -> None:
    assert "content" not in operation(rest(), "application.redeploy")["responses"]["200"]
    shown = operation(rest(), "deployment.all")["responses"]["200"]["content"]["application/json"]["schema"]
    assert shown == {"items": {"$ref": "#/components/schemas/QueuedDeployment"}, "type": "array"}
    wrapped = operation(trpc(), "deployment.all")["responses"]["200"]["content"]["application/json"]["schema"]
    assert wrapped["properties"]["result"]["properties"]["data"]["properties"]["json"] == shown


async def test_rest_returns_the_document_bare_and_trpc_wrapped(web: Web) -> None:
    status, bare = await web.get("/api/settings.getOpenApiDocument")
    assert (status, bare["openapi"], bare["paths"].keys()) == (200, "3.1.0", rest()["paths"].keys())
    assert bare == await web.query("settings.getOpenApiDocument")
    other = await web.query("settings.getOpenApiDocument", surface="trpc")
    assert other["servers"] == [{"url": "/api/trpc"}]


def test_docs_api_md_is_up_to_date() -> None:
    kept = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    assert kept == render.render_markdown(rest()), "make api writes it anew"


@pytest.mark.parametrize("path", ["/", "/api/docs"])
async def test_a_page_needs_no_key_and_no_other_resources(web: Web, path: str) -> None:
    async with web.client.get(path) as answer:
        html = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    allowed = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{allowed}';")
    assert not re.findall(r"<script|<link|<img|=\"https?://|src=|style=| on[a-z]+=", html)
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert targets <= set(re.findall(r'id="([^"]+)"', html))
    assert path == "/" or set(PROCEDURES) <= targets


async def test_api_health_answers_as_dokploy(web: Web) -> None:
    async with web.client.get("/api/health") as answer:
        assert (answer.status, await answer.json()) == (200, {"ok": True})


def test_every_declared_procedure_is_in_the_catalog_once_and_found_in_any_case() -> None:
    modules = [import_module(f"{procedures.__name__}.{one.name}") for one in iter_modules(procedures.__path__)]
    declared = [one for module in modules for one in getattr(module, "procedures", ())]
    assert sorted(one.name for one in declared) == sorted(PROCEDURES)
    assert [PROCEDURES[one.name.upper()] for one in declared] == declared
    assert [PROCEDURES.get(name) for name in ("", "nothing.all", "application.nothing", "application")] == [None] * 4


def test_no_default_is_an_object() -> None:
    def objects(within: Any) -> int:
        if isinstance(within, dict):
            return isinstance(within.get("default"), dict) + sum(map(objects, within.values()))
        return sum(map(objects, within)) if isinstance(within, list) else 0

    assert [objects(rest()), objects(trpc())] == [0, 0]


_OLD_WORDS = re.compile(
    r"\b(?:contract|folders?|follows?|former(?!ValidUntil)|for everything|goes on|come by)\b"
    r"|as the gateway is set|the page before|beside the"
)


def texts_in(value: Any) -> list[str]:
    """Return all summaries and descriptions, wherever they stand."""
    if isinstance(value, list):
        return [one for each in value for one in texts_in(each)]
    if not isinstance(value, dict):
        return []
    here = [value[name] for name in ("summary", "description") if isinstance(value.get(name), str)]
    return here + [one for each in value.values() for one in texts_in(each)]


@pytest.mark.parametrize("surface", Surface)
def test_descriptions_use_the_words_of_the_glossary(surface: Surface) -> None:
    assert {text for text in texts_in(the_document(surface)) if _OLD_WORDS.search(text)} == set()


@each_case("name", PROCEDURES)
def test_each_summary_is_one_imperative_sentence(name: str) -> None:
    summary = operation(rest(), name)["summary"]
    verbs = (
        "Adopt|Approve|Cancel|Check|Create|Defer|Delete|Disable|Do|Enable|List|Mount|Move|Publish|Queue|Redeploy|"
        "Register|Reject|Remove|Replace|Replay|Return|Revoke|Search|Set|Store|Subscribe|Test|Update"
    )
    assert re.fullmatch(rf"(?:{verbs}) [^.;]+(?:\.\d+ [^.;]+)?\.", summary), summary


def test_a_description_stands_where_pages_and_client_generators_read_it() -> None:
    """Beside the choices of a field, not inside one of them."""
    for schema in schemas_in(rest()):
        assert not [one for one in schema.get("anyOf", ()) if "description" in one]


def test_docs_api_md_describes_query_parameters() -> None:
    page = render.render_markdown(rest())
    chapter = page.partition("### application.all\n")[2].partition("### ")[0]
    assert "| `limit` | integer | Maximum number of rows, newest first. Default: 1000. |" in chapter


@pytest.mark.parametrize("page", ["api.md", "api.html"])
def test_the_variables_of_the_examples_are_explained(page: str) -> None:
    template = (Path(render.__file__).parent / "templates" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\$[A-Z]+", render.render_markdown(rest())))
    assert named == {"$GATEWAY", "$KEY"}
    assert named <= set(re.findall(r"\$[A-Z]+", template))
