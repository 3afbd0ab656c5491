"""The texts of the pages, in the language that a browser asks for, as far as there is a translation.

Templates hold English texts as `{{ _("Sign in") }}`, and sentences with values as `{% trans %}`. `texts/en.json` lists
all of them; `make texts` writes it. A translation is a copy named after its language, such as `texts/de.json`, with
other values. A text without a translation is shown in English.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import orjson

from gateway.dashboard.formats import AGO, NOW
from gateway.dashboard.remedies import REMEDIES
from gateway.model import (
    alerts,
    approvals,
    audit,
    deliveries,
    deployments,
    errors,
    gates,
    observations,
    promotions,
    releases,
)
from gateway.model.tag_policies import Rule

if TYPE_CHECKING:
    import jinja2

ENGLISH = "en"
#: what a translation fills in, as in `%(name)s`
PLACEHOLDER = re.compile(r"%\((\w+)\)s")

_LONGEST_HEADER = 200  # characters
_ENUMERATIONS: tuple[type[StrEnum], ...] = (
    *(
        alerts.EventKind,
        alerts.ReceiverKind,
        approvals.AnswerKind,
        approvals.Standing,
        audit.Outcome,
        deliveries.Verdict,
        deployments.Kind,
    ),
    *(deployments.Status, deployments.Step, errors.Code, gates.Verdict, gates.Level, observations.State),
    *(promotions.PromotionState, releases.ReleaseState, releases.MemberState, Rule),
)
#: other values that are shown as words
_WORDS = ("never deployed", "not observed yet", "waited", "ok", "unreachable", "in trouble", "waiting", "delivered")

Translate = Callable[[str], str]


def word(value: str) -> str:
    """Return the English text of a value of an enumeration."""
    return value.replace("_", " ")


@cache
def languages() -> Mapping[str, Mapping[str, str]]:
    """Return the texts by language."""
    folder = files("gateway.dashboard") / "texts"
    return {
        one.name.removesuffix(".json"): orjson.loads(one.read_bytes())
        for one in folder.iterdir()
        if one.name.endswith(".json")
    }


def choose(accepted: str, known: Iterable[str]) -> str:
    """Return the known language that an Accept-Language header names first with the greatest weight, else English."""
    wanted: list[tuple[float, str]] = []
    for part in accepted[:_LONGEST_HEADER].split(","):
        name, _, weight = part.strip().partition(";q=")
        found = re.fullmatch(r"[01](\.\d{1,3})?", weight.strip())
        wanted.append((-float(found[0]) if found else -1.0, name.strip().lower()))
    names = {one.lower(): one for one in known}
    for _, name in sorted(wanted, key=lambda one: one[0]):
        for candidate in (name, name.partition("-")[0]):
            if candidate in names:
                return names[candidate]
    return ENGLISH


def translator(language: str) -> Translate:
    """Return the function that translates a text into a language."""
    texts = languages().get(language, {})
    return lambda text: texts.get(text, text)


def collect(environment: "jinja2.Environment", sources: Iterable[str]) -> list[str]:
    """Return all texts of these templates, and the words for values, in order."""
    found = {word(one) for values in _ENUMERATIONS for one in values} | {word(one) for one in _WORDS}
    found |= {AGO, NOW, *REMEDIES.values()}
    for source in sources:
        # One with values comes with a None for each.
        for _, _, found_here in environment.extract_translations(source, ("_", "gettext")):  # type: ignore[attr-defined]  # of its i18n extension
            text = found_here if isinstance(found_here, str) else found_here[0]
            if not isinstance(text, str):
                raise TypeError(f"a text is a constant, not {found_here!r}")
            found.add(text)
    return sorted(found)
