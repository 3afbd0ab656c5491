"""`make texts`: write the list of all texts of the pages, from which translations are made."""

from pathlib import Path

import orjson

from gateway.dashboard import texts
from gateway.dashboard.rendering import templates

TEMPLATES = Path("gateway/dashboard/templates")
LIST = Path("gateway/dashboard/texts/en.json")


def collected() -> dict[str, str]:
    """Return the texts that the templates have."""
    sources = [one.read_text(encoding="utf-8") for one in sorted(TEMPLATES.glob("*.html"))]
    return {text: text for text in texts.collect(templates(), sources)}


def main() -> None:
    LIST.write_bytes(orjson.dumps(collected(), option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
