"""The JSON Schema of declarations, for editors: https://json-schema.org/draft/2020-12. It is made from the forms."""

from typing import Any

from gateway.gates import catalog
from gateway.model.declared.forms import DeclarationForm

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"
_GATE = {"$ref": _REF.format(model="GateForm")}


def json_schema() -> dict[str, Any]:
    """Return the schema of a declaration, with the rule of each kind of gate."""
    schema = DeclarationForm.model_json_schema(ref_template=_REF)
    definitions: dict[str, Any] = schema["$defs"]
    by_kind, by_name = [], {}
    for kind, gate in sorted(catalog.GATES.items()):
        rule = gate.rule.model_json_schema(ref_template=_REF)
        name = f"{kind.capitalize()}Rule"
        definitions |= rule.pop("$defs", {})
        definitions[name] = rule
        then = {"properties": {"rule": {"$ref": _REF.format(model=name)}}}
        by_kind.append({"if": {"required": ["kind"], "properties": {"kind": {"const": kind}}}, "then": then})
        by_name[kind] = {"allOf": [_GATE, {"if": {"not": {"required": ["kind"]}}, "then": then}]}
    definitions["GateForm"]["allOf"] = by_kind
    for owner in ("ApplicationForm", "EnvironmentForm", "ProjectForm"):
        definitions[owner]["properties"]["gates"]["properties"] = by_name
    whole: dict[str, Any] = _without_titles(schema)
    return {"$schema": _DIALECT, "title": "Declaration of Pushdeploy", **whole}


def _without_titles(schema: Any, *, names: bool = False) -> Any:
    """Return the schema without the titles that pydantic makes of names. In `names`, keys are the user's."""
    if isinstance(schema, dict):
        return {
            name: _without_titles(part, names=not names and name in {"properties", "$defs"})
            for name, part in schema.items()
            if names or name != "title" or not isinstance(part, str)
        }
    return [_without_titles(part) for part in schema] if isinstance(schema, list) else schema
