"""Render the OpenAPI document for people: as an HTML page and as Markdown.

The page is one file, without scripts and without requests to other addresses.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jinja2
import orjson

_REFERENCE = "#/components/schemas/"
_EXAMPLES = {
    "applicationId": "app-123",
    "dockerImage": "acme/web:v1",
    "name": "web",
    "container": "web",
    "source": "github",
    "policy": "semver",
}
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Value:
    """A field of an input or an answer."""

    name: str
    kind: str
    required: bool
    words: str


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of an object; `kept` names those that are stored and returned, but have no effect."""

    values: tuple[Value, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One procedure."""

    name: str
    method: str
    summary: str
    words: str
    takes: Fields
    gives: str
    headers: tuple[str, ...]
    refusals: tuple[tuple[str, str], ...]
    curl: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """The procedures of one router, as in `application`."""

    name: str
    words: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A schema with a name."""

    name: str
    words: str
    fields: Fields
    kind: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and its Content-Security-Policy."""

    html: str
    policy: str


def render_page(template: str, content: Mapping[str, Any]) -> Page:
    """Render a template, with a policy that allows the page's own style and nothing else."""
    html = _templates().get_template(template).render(content)
    style = _STYLE.search(html)
    allowed = b64encode(hashlib.sha256(style[1].encode()).digest()).decode() if style else ""
    return Page(
        html,
        f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    )


def render_markdown(document: Mapping[str, Any]) -> str:
    """Render an OpenAPI document as Markdown."""
    return _templates().get_template("api.md").render(template_context(document))


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.api.docs"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["words"] = lambda kind: re.split(r"([\w-]+)", kind)
    found.filters["capitalize_first"] = lambda words: words[:1].upper() + words[1:]
    return found


def template_context(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of the templates for an OpenAPI document."""
    chapters = [Chapter(tag["name"], tag["description"], _calls(document, tag["name"])) for tag in document["tags"]]
    parts = [
        Part(name, schema.get("description", ""), _fields(schema), _type_name(schema))
        for name, schema in document["components"]["schemas"].items()
    ]
    return {
        "version": document["info"]["version"],
        "chapters": chapters,
        "parts": parts,
        "named": {part.name for part in parts},
    }


def _calls(document: Mapping[str, Any], tag: str) -> tuple[Call, ...]:
    return tuple(
        _call(path.strip("/"), method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    )


def _call(name: str, method: str, operation: Mapping[str, Any]) -> Call:
    answers = dict(operation["responses"])
    given = answers.pop("200")
    sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    takes = sent or {
        "properties": {
            one["name"]: one["schema"] | {"description": one.get("description", "")} for one in operation["parameters"]
        },
        "required": [one["name"] for one in operation["parameters"] if one["required"]],
    }
    return Call(
        name=name,
        method=method.upper(),
        summary=operation["summary"],
        words=operation["description"],
        takes=_fields(takes),
        gives=_type_name(given["content"]["application/json"]["schema"]) if "content" in given else "nothing",
        headers=tuple(given.get("headers", ())),
        refusals=tuple((status, answer["description"]) for status, answer in answers.items()),
        curl=_curl(name, method, takes),
    )


def _curl(name: str, method: str, takes: Mapping[str, Any]) -> str:
    sent = {field: _example(field, takes["properties"][field]) for field in takes.get("required", ())}
    if method == "get":
        query = "&".join(f"{field}={value}" for field, value in sent.items())
        return f'curl -H "x-api-key: $KEY" "$GATEWAY/api/{name}{"?" if query else ""}{query}"'
    return (
        f'curl -X POST "$GATEWAY/api/{name}" -H "x-api-key: $KEY" -H "Content-Type: application/json" '
        f"-d '{orjson.dumps(sent).decode()}'"
    )


def _example(field: str, schema: Mapping[str, Any]) -> Any:
    if field in _EXAMPLES:
        return _EXAMPLES[field]
    shown = next(iter(schema.get("anyOf", ())), schema)
    if "enum" in shown:
        return shown["enum"][0]
    simple = {"integer": shown.get("minimum", 1), "number": 1, "boolean": True, "array": [], "object": {}}
    return simple.get(shown.get("type", ""), "…")


def _fields(schema: Mapping[str, Any]) -> Fields:
    properties, required = schema.get("properties", {}), schema.get("required", ())
    values = tuple(
        Value(name, _type_name(one), name in required, one.get("description", "") + _default(one))
        for name, one in properties.items()
        if not one.get("x-kept")
    )
    return Fields(values, tuple(name for name, one in properties.items() if one.get("x-kept")))


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return f" Default: {orjson.dumps(default).decode()}." if default not in (None, "", [], {}) else ""


def _type_name(schema: Mapping[str, Any]) -> str:
    """Return the type of a value in words: `list of Port, or null`."""
    match schema:
        case {"$ref": reference}:
            words = str(reference).removeprefix(_REFERENCE)
        case {"anyOf": choices}:
            words = ", or ".join(map(_type_name, choices))
        case {"enum": values}:
            words = " | ".join(map(str, values))
        case {"const": value}:
            words = orjson.dumps(value).decode()
        case {"type": "array", "items": items}:
            words = f"list of {_type_name(items)}"
        case {"type": "object", "additionalProperties": Mapping() as values}:
            words = f"object of {_type_name(values)}"
        case _:
            words = str(schema.get("format") or schema.get("type", "anything"))
    return words
