"""Names of images that a setting puts together from what a sender tells: `registry.example.com/{project}:{ref}`."""

import re
from collections.abc import Collection, Mapping

from gateway.model.errors import InvalidInput

_WORD = re.compile(r"\{([^{}]*)\}")


def check_template(template: str, known: Collection[str]) -> None:
    """Raise InvalidInput where it asks for a word that nobody tells."""
    for word in _WORD.findall(template):
        if word not in known:
            raise InvalidInput(f"{{{word}}} is not known here; known are: {', '.join(sorted(known))}", field="settings")


def fill(template: str, words: Mapping[str, str]) -> str:
    """Put the words in; raises InvalidInput for one that is empty or unknown."""
    for word in _WORD.findall(template):
        if not words.get(word):
            raise InvalidInput(f"the sender does not tell {{{word}}}, which {template!r} needs")
    return _WORD.sub(lambda match: words[match[1]], template)
