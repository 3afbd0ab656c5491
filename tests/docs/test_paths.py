"""Files and packages that the documents name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

_PATH = re.compile(r"(?<![\w./@:$-])((?:gateway|tests|migrations)/[\w./-]*\w/?)(?![\w<*{…/:])")
# Paths that exist in the wheel alone.
_NO_PATHS = frozenset({"gateway/_migrations"})


def paths(text: str) -> set[str]:
    return set(_PATH.findall(text)) - _NO_PATHS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert sorted(path for path in paths(page.read_text(encoding="utf-8")) if not (ROOT / path).exists()) == []


def test_paths_are_found_in_prose_in_code_and_in_tables_and_addresses_are_not() -> None:
    text = "`gateway/app.py`, gateway/store/ and tests/docs; x/gateway/y, gateway/sources/<name>.py, http://gateway/z"
    assert paths(text) == {"gateway/app.py", "gateway/store/", "tests/docs"}


def test_the_map_names_every_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    parts = {
        f"`gateway/{part.name}{'/' if part.is_dir() else ''}`"
        for part in (ROOT / "gateway").iterdir()
        if part.suffix != ".typed" and not part.name.startswith("_")
    }
    assert {part for part in parts if part not in text} == set()
