"""What `gateway apply` prints for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.cli._declared_files import Files
from gateway.cli._runner import print_text
from gateway.model.declared.objects import ObjectPath
from gateway.model.setting_text import describe

_SIGNS = {"created": "+", "changed": "~", "removed": "-", "refused": "!"}
_LONGEST = 200  # characters of a value


def name_of(row: Mapping[str, Any]) -> str:
    """Return the kind and the name of an object."""
    return str(ObjectPath.parse(row["path"]))


def print_plan(files: Files, objects: Sequence[Mapping[str, Any]]) -> None:
    """Print what is to happen to each object that changes, and how many there are."""
    for row in objects:
        if row["action"] == "unchanged":
            continue
        print_text(f"{_SIGNS[row['action']]} {name_of(row)}")
        if row["error"] is not None:
            print_error(files, row["path"], row["error"]["message"], row["error"]["field"])
            continue
        _print_changes(row)
        if row["note"]:
            print_text(f"    {row['note']}")
    _print_pending_alone(objects)
    counts = {word: sum(row["action"] == action for row in objects) for action, word in _WORDS.items()}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    print_text(f"Plan: {told or 'nothing is declared'}.")


_WORDS = {
    "created": "to create",
    "changed": "to change",
    "removed": "to remove",
    "refused": "refused",
    "unchanged": "unchanged",
}


def _print_changes(row: Mapping[str, Any]) -> None:
    changes = row["changes"]
    width = max((len(one["field"]) for one in changes), default=0)
    for one in changes:
        before, after = _value(one["before"]), _value(one["after"])
        if before == after == "-":
            continue
        said = {"created": after, "removed": before}.get(row["action"], f"{before} -> {after}")
        print_text(f"    {one['field']:<{width}}  {said}")
    if row["kind"] == "application" and row["action"] == "removed":
        print_text("    its containers are removed with it")
    if row["pending"]:
        print_text(f"    the next deployment changes: {', '.join(one['field'] for one in row['pending'])}")


def _print_pending_alone(objects: Sequence[Mapping[str, Any]]) -> None:
    for row in objects:
        if row["action"] == "unchanged" and row["pending"]:
            fields = ", ".join(one["field"] for one in row["pending"])
            print_text(f"= {name_of(row)}: unchanged; the next deployment changes: {fields}")


def _value(value: Any) -> str:
    text = " ".join(describe(value).split()) or "-"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def print_error(files: Files, path: Sequence[str], message: str, field: str | None) -> None:
    """Print why an object is refused, and where that stands."""
    where = files.locate(path, field)
    print_text("    " + ": ".join(part for part in (where, field, message) if part))


def print_applied(row: Mapping[str, Any]) -> None:
    """Print what happened to an object, and what is shown once."""
    print_text(f"{row['action']} {name_of(row)}")
    for name, value in row["printed"].items():
        print_text(f"    {name}: {value}")
    if row["printed"]:
        print_text("    this is not shown again")
    if row["pending"]:
        print_text(f"    the next deployment changes: {', '.join(one['field'] for one in row['pending'])}")
