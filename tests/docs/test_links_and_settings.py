"""The documents say what the program does."""

import re
from functools import cache
from pathlib import Path

import click
import pytest

from gateway.api.rpc import trpc
from gateway.cli import main
from gateway.config import OF_CLIENT, Settings
from gateway.model.errors import REMEDIES, Code
from gateway.sources import SOURCES
from tests.support.each_case import each_case

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ERRORS = (DOCS / "errors.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]

# The set-up steps that `gateway webhooks create` prints.
STEPS = sorted((ROOT / "gateway/cli/steps").glob("*.txt"))

_MAIN: click.Command = main
_LINK = re.compile(r"\]\(([^)#\s]+)")
_COMMAND = re.compile(r"(?:^\s*|[`(]|do )gateway ([a-z][^`\n#]*)", re.MULTILINE)
_OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*|-[a-z])(?![\w-])")
_TARGET = re.compile(r"(?:^    |`)make ([a-z0-9-]+)", re.MULTILINE)


@each_case("page", PAGES, ids=lambda page: str(page.name))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = [target for target in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def _linked_from(page: Path) -> set[Path]:
    return {(page.parent / target).resolve() for target in _LINK.findall(page.read_text(encoding="utf-8"))}


def test_every_page_is_reached_from_the_readme_or_the_index_of_the_documents() -> None:
    linked = _linked_from(ROOT / "README.md")
    assert DOCS / "README.md" in linked
    assert set(PAGES[1:]) <= linked | _linked_from(DOCS / "README.md")


@each_case("page", PAGES, ids=lambda page: str(page.name))
def test_every_command_of_a_page_is_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in _COMMAND.findall(text):
        words, command = line.split(), _MAIN
        while words and isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, f"gateway {line}"
            command = found
        known = {name for parameter in command.params for name in parameter.opts}
        assert set(_OPTION.findall(" ".join(words))) <= known, f"gateway {line}"
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(_TARGET.findall(text)) <= set(targets)


@each_case("page", [*PAGES, ROOT / "SECURITY.md", *STEPS], ids=lambda page: str(page.name))
def test_every_setting_and_metric_that_a_page_names_is_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    settings = {f"GATEWAY_{name.upper()}" for name in (*Settings.model_fields, *OF_CLIENT)}
    named = {name.removesuffix("_FILE") for name in re.findall(r"GATEWAY_[A-Z_]+", text)}
    # The gateway refuses to start with a variable that begins like a setting and is none.
    assert named - settings == set()
    assert set(re.findall(r"\bgateway_[a-z_]+", text)) - _metrics() == set()


@cache
def _metrics() -> set[str]:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    return set(re.findall(r'"(gateway_[a-z_]+)"', code))


def test_every_code_is_documented_with_its_remedy() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| .+ \| .+ \| (.+) \|$", ERRORS, re.MULTILINE)
    assert rows == [(str(code), remedy) for code, remedy in REMEDIES.items()]


@each_case("code", Code)
def test_every_code_is_expected_by_a_test(code: Code) -> None:
    named = re.compile(rf"Code\.{code.name}\b|^{code} \d", re.MULTILINE)
    assert named.search(_tests())


@cache
def _tests() -> str:
    """Return the text of all tests of our own; `tests/clients` has programs of others."""
    tests = [one for folder in (ROOT / "tests").glob("[!c]*/") for one in folder.rglob("test_*.py")]
    tests += (ROOT / "tests/contract").rglob("test_*.py")
    tests.append(ROOT / "tests/unit/docker/engine_sentences.txt")
    return "\n".join(one.read_text(encoding="utf-8") for one in tests)


def test_every_status_the_api_answers_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", ERRORS, re.MULTILINE)
    assert {(int(status), code) for status, code in rows} == {
        (int(status), trpc.Problem(status, "").code) for status in trpc.STATUSES
    }


@pytest.mark.parametrize("part", ["Image Pull Failed", "Error: manifest", "Wrong Architecture", "pull rate limit"])
def test_what_users_see_first_is_quoted(part: str) -> None:
    assert part.lower() in ERRORS.lower()


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_a_page_and_a_link_to_it(source: str) -> None:
    assert (DOCS / f"{source}.md").exists()
    assert f"]({source}.md)" in (DOCS / "README.md").read_text(encoding="utf-8")
