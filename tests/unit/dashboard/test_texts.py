"""All texts of the pages are in one list, and a translation of it is what people see."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import jinja2
import orjson
import pytest
from jinja2 import nodes

from gateway.dashboard import texts
from gateway.dashboard.rendering import templates
from tests.scripts.texts import TEMPLATES, collected

_WORD = re.compile(r"[A-Za-z]{2}")
_SEEN = frozenset({"aria-label", "placeholder", "title", "alt"})
#: what is no text: names of the product, of things to type, of examples
_NO_TEXT = frozenset({"Pushdeploy", "· Pushdeploy"})
_EXAMPLE = re.compile(r"ghcr\.io|example\.com|ssh://")
_SPOKEN_ARGUMENT = {"action": (2, 6), "changes": (1,)}


class _Bare(HTMLParser):
    """Collects the texts that people see and that are not marked for translation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in {"code", "kbd"}
        self.found += [text or "" for name, text in attrs if name in _SEEN and _WORD.search(text or "")]

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in {"code", "kbd"}

    def handle_data(self, data: str) -> None:
        if not self._code and _WORD.search(data):
            self.found.append(data.strip())


def bare_texts(source: str) -> list[str]:
    source = re.sub(r"\{#.*?#\}|\{% trans.*?endtrans %\}|\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.DOTALL)
    found = _Bare()
    found.feed(source)
    return [text for text in found.found if text not in _NO_TEXT and not _EXAMPLE.search(text)]


def unmarked_constants(tree: nodes.Template) -> list[str]:
    """Return the constants that expressions of a template show."""
    shown: list[nodes.Expr] = []
    for output in tree.find_all(nodes.Output):
        shown += output.nodes
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            spoken = _SPOKEN_ARGUMENT.get(call.node.name, ())
            shown += [call.args[at] for at in spoken if at < len(call.args)]
    found: list[str] = []
    while shown:
        one = shown.pop()
        if isinstance(one, nodes.Const) and isinstance(one.value, str) and _WORD.search(one.value):
            found.append(one.value)
        elif isinstance(one, nodes.CondExpr):
            shown += [one.expr1] + ([one.expr2] if one.expr2 is not None else [])
        elif isinstance(one, nodes.Or | nodes.And):
            shown += [one.left, one.right]
        elif isinstance(one, nodes.Concat):
            shown += one.nodes
    return found


def test_the_templates_show_no_text_that_cannot_be_translated() -> None:
    found = {}
    for path in TEMPLATES.glob("*.html"):
        source = path.read_text(encoding="utf-8")
        found[path.name] = bare_texts(source) + unmarked_constants(templates().parse(source))
    assert not {name: these for name, these in found.items() if these}


def test_what_is_not_marked_is_found() -> None:
    assert bare_texts('<p title="Some">{{ _("Marked") }} text</p><code>code</code>') == ["Some", "text"]
    marked = '{{ "yes" if one else _("no") }}{{ action(session, "a.b", "Do it", here) }}'
    assert unmarked_constants(templates().parse(marked)) == ["Do it", "yes"]


def test_the_list_has_each_text_once_and_no_other() -> None:
    assert texts.languages()[texts.ENGLISH] == collected(), "make texts writes the list"


@pytest.mark.parametrize("language", sorted(texts.languages()))
def test_a_translation_fills_in_the_same_values_and_leads_to_the_same_places(language: str) -> None:
    for text, translated in texts.languages()[language].items():
        assert sorted(texts.PLACEHOLDER.findall(text)) == sorted(texts.PLACEHOLDER.findall(translated)), text
        assert sorted(re.findall(r"<[^>]+>", text)) == sorted(re.findall(r"<[^>]+>", translated)), text


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("en;q=0.3, pt-br;q=0.9", "pt-BR"),
        ("fr, *;q=0.5", "en"),
        ("de;q=nonsense, en;q=0.1", "de"),
        ("," * 10_000, "en"),
    ],
)
def test_the_language_is_the_one_that_is_asked_for_first(accepted: str, language: str) -> None:
    assert texts.choose(accepted, ["en", "de", "pt-BR"]) == language


def test_a_translated_text_is_shown_with_its_values_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    german = orjson.loads('{"Adopt %(name)s": "%(name)s aufnehmen", "%(length)s ago": "vor %(length)s"}')
    monkeypatch.setattr(texts, "languages", lambda: {"en": {}, "de": german})
    environment: jinja2.Environment = templates.__wrapped__("de")
    shown = environment.from_string('{{ _("Adopt %(name)s", name=name) }}, {{ _("Sign in") }}').render(name="<b>")
    assert shown == "&lt;b&gt; aufnehmen, Sign in"
    moment = datetime.now(UTC) - timedelta(hours=3, minutes=1)
    assert ">vor 3 h<" in environment.from_string("{{ moment|ago }}").render(moment=moment)
