"""The documents lead somewhere: files and headings that they name exist, and each page says what it is for."""

import re
import tomllib
from pathlib import Path

from tests.support.each_case import each_case

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# The README begins with what the product does, the changelog and the two indexes with what they list.
GUIDES = [page for page in PAGES if page.name not in {"README.md", "CHANGELOG.md", "api.md"}]

_PATH = re.compile(r"(?<![\w./@:$-])((?:gateway|tests|migrations)/[\w./-]*\w/?)(?![\w<*{…/]|:(?!:))")
_FRAGMENT = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")
# Say directory; previous or earlier, except of master keys; unrestricted, of keys.
_OTHER_WORDS = re.compile(
    r"\bfolders?\b|\bformer (?:version|release|image|spec|tag|database|secret|token|path)s?\b|`admin`,? for everything"
)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def paths(text: str) -> set[str]:
    return set(_PATH.findall(text))


def anchors(page: Path) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_case("page", PAGES, ids=lambda page: str(page.name))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert sorted(path for path in paths(page.read_text(encoding="utf-8")) if not (ROOT / path).exists()) == []


def test_paths_are_found_in_prose_in_code_and_in_tables_and_addresses_are_not() -> None:
    text = (
        "`gateway/app.py`, gateway/store/ and tests/docs; tests/unit/a.py::test_a, "
        "x/gateway/y, gateway/sources/<name>.py, http://gateway/z"
    )
    assert paths(text) == {"gateway/app.py", "gateway/store/", "tests/docs", "tests/unit/a.py"}


@each_case("page", PAGES, ids=lambda page: str(page.name))
def test_every_heading_that_a_page_links_to_exists(page: Path) -> None:
    links = [link for link in _FRAGMENT.findall(page.read_text(encoding="utf-8")) if "://" not in link[0]]
    assert [
        f"{target}#{fragment}"
        for target, fragment in links
        if fragment not in anchors(page.parent / target if target else page)
    ] == []


@each_case("page", GUIDES, ids=lambda page: str(page.name))
def test_a_page_begins_with_what_its_reader_can_do_after_it(page: Path) -> None:
    _title, _blank, opening, *_ = page.read_text(encoding="utf-8").splitlines()
    assert opening.startswith("After this page ")


@each_case("page", PAGES, ids=lambda page: str(page.name))
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    assert _OTHER_WORDS.findall(page.read_text(encoding="utf-8")) == []


def test_the_map_names_every_package() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    parts = {
        f"`gateway/{part.name}{'/' if part.is_dir() else ''}`"
        for part in (ROOT / "gateway").iterdir()
        if part.suffix == ".py" or (part / "__init__.py").exists()
        if not part.name.startswith("_")
    }
    assert {part for part in parts if part not in text} == set()


def test_the_map_has_the_direction_of_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    chain = " > ".join(layer.replace("gateway.", "") for layer in layers)
    assert f"\n    {chain}\n" in (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
