"""The documents say what the program does."""

from pathlib import Path

import pytest

from gateway.errors import REMEDIES
from gateway.sources import SOURCES

DOCS = Path(__file__).parents[1] / "docs"


def test_every_code_is_documented_with_its_remedy() -> None:
    table = "\n".join(f"| `{code}` | {remedy} |" for code, remedy in REMEDIES.items())
    assert table in (DOCS / "rollouts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_a_page_and_a_link_to_it(source: str) -> None:
    assert (DOCS / f"{source}.md").exists()
    assert f"docs/{source}.md" in (DOCS.parent / "README.md").read_text(encoding="utf-8")
