"""Templates that build an image's name from fields of a delivery: `registry.example.com/{project}:{ref}`."""

import re
from collections.abc import Collection, Mapping

from gateway.model.errors import InvalidInput

_WORD = re.compile(r"\{([^{}]*)\}")


def check_template(template: str, known: Collection[str]) -> None:
    """Raise InvalidInput where the template has a field that deliveries do not have."""
    for word in _WORD.findall(template):
        if word not in known:
            raise InvalidInput(
                f"{{{word}}} is not a known field; known fields: {', '.join(sorted(known))}", field="settings"
            )


def render(template: str, words: Mapping[str, str]) -> str:
    """Return the template with its fields filled in; raises InvalidInput for an empty or unknown one."""
    for word in _WORD.findall(template):
        if not words.get(word):
            raise InvalidInput(f"the delivery has no {{{word}}}, which {template!r} needs")
    return _WORD.sub(lambda match: words[match[1]], template)
