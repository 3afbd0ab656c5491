"""Write docs/llms.txt: what there is to read, for programs that read it for a person (https://llmstxt.org).

make llms
"""

import re
from pathlib import Path

from tests.support.doc_blocks import ROOT

DOCS = ROOT / "docs"

_GROUP = re.compile(r"^\*\*(?P<name>[^*]+?)\.?\*\*(?P<links>.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
_PAGE = re.compile(r"\((?P<path>[\w./-]+\.md)(?:#[\w-]+)?\)")
_OPENING = re.compile(r"^# (?P<title>[^\n]+)\n\n(?P<first>.+?)(?=\n\n)", re.MULTILINE | re.DOTALL)


def made() -> str:
    """Return the text, made from docs/README.md and how each page begins."""
    lines = [
        "# Pushdeploy",
        "",
        "> A webhook gateway that deploys Docker images the moment they are pushed, and reports what it has observed.",
    ]
    for group in _GROUP.finditer((DOCS / "README.md").read_text(encoding="utf-8")):
        lines += ["", f"## {group['name']}", ""]
        lines += [_line(path) for path in dict.fromkeys(_PAGE.findall(group["links"]))]
    return "\n".join([*lines, ""])


def _line(path: str) -> str:
    opening = _OPENING.search((DOCS / path).read_text(encoding="utf-8"))
    if opening is None:
        raise ValueError(f"{path} does not begin with a title and a paragraph")
    first = " ".join(opening["first"].split()).removeprefix("After this page ")
    return f"- [{opening['title'].replace('`', '')}]({path}): {first}"


if __name__ == "__main__":
    Path(DOCS / "llms.txt").write_text(made(), encoding="utf-8")
