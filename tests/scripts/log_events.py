"""Write the events of the log into docs/logs.md, from the code.

make logs
"""

import ast
from pathlib import Path

from tests.support.doc_blocks import ROOT

PAGE = ROOT / "docs/logs.md"
_BEGIN, _END = "<!-- events: made by make logs -->\n", "<!-- end of events -->\n"
_LEVELS = {"debug", "info", "warning", "error", "exception"}
_NO_FIELDS = {"exc_info"}


def events() -> list[tuple[str, str, str]]:
    """Return text, level and fields of each event, sorted."""
    found = {
        one
        for file in sorted((ROOT / "gateway").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (one := _event(node)) is not None
    }
    return sorted(found)


def _event(node: ast.AST) -> tuple[str, str, str] | None:
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="_LOG"), attr=level),
            args=[ast.Constant(value=str(text)), *_],
            keywords=keywords,
        ) if level in _LEVELS:
            fields = [f"`{one.arg}`" for one in keywords if one.arg is not None and one.arg not in _NO_FIELDS]
            more = ["…"] if any(one.arg is None for one in keywords) else []
            return text, "error" if level == "exception" else level, ", ".join([*fields, *more])
    return None


def made(page: str) -> str:
    """Return the page with the events as they are."""
    rows = [f"| {text} | {level} | {fields} |\n" for text, level, fields in events()]
    before, after = page.split(_BEGIN, maxsplit=1)[0], page.split(_END)[1]
    table = "".join(["| Event | Level | Fields |\n| --- | --- | --- |\n", *rows])
    return f"{before}{_BEGIN}{table}{_END}{after}"


if __name__ == "__main__":
    Path(PAGE).write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
