"""Remove secrets from the bodies that the inbox keeps.

The variables of a pipeline hold its secrets. Some senders also repeat the secret of the webhook, or send a token that
confirms a subscription. A replay needs none of them.
"""

import re
from functools import cache
from typing import Any

import orjson

from gateway.sources._json import decode_form

_REMOVED = "(removed)"
_DEEPEST = 64
_SECRET = re.compile(
    r"variables|[\w-]*(?:secret|passw(?:or)?d|token|credentials?|api[_-]?key|private[_-]?key|authorization|auth[_-]?header)"
    r"|(?:un)?subscribeurl|validation(?:code|url)",
    re.IGNORECASE,
)
# A body without any of these words is kept as it is.
_TELLTALE = (
    rb"(?i)variables|secret|passw|token|credential|api[_-]?key|private[_-]?key|authorization|auth[_-]?header"
    rb"|subscribeurl|validationcode|validationurl"
)


def redact_body(body: bytes) -> bytes:
    """Return a body without the values of secrets and of a pipeline's variables.

    A body that is not JSON and has a word for a secret in it is removed as a whole.
    """
    whole = decode_form(body)
    if not _telltale().search(whole):
        return body
    try:
        loaded = orjson.loads(whole)
    except orjson.JSONDecodeError:
        return f"(removed: {len(body)} bytes that are not JSON and may hold a secret)".encode()
    kept = _without(loaded, 0)
    return body if kept == loaded else orjson.dumps(kept)


@cache
def _telltale() -> Any:
    """Return the compiled words; RE2 searches for all of them at once, and is loaded for the first body."""
    import re2

    return re2.compile(_TELLTALE)


def _without(value: Any, depth: int) -> Any:
    """Return the value without secrets, and without what is nested deeper than any registry nests."""
    if not isinstance(value, list | dict):
        return value
    if depth > _DEEPEST:
        return _REMOVED
    if isinstance(value, list):
        return [_without(one, depth + 1) for one in value]
    return {name: _hidden(one) if _SECRET.fullmatch(name) else _without(one, depth + 1) for name, one in value.items()}


def _hidden(value: Any) -> Any:
    """Return what replaces the value of a secret; of a list of variables the names stay."""
    if isinstance(value, list):
        return [
            {name: kept if name == "key" else _REMOVED for name, kept in one.items()}
            if isinstance(one, dict)
            else _REMOVED
            for one in value
        ]
    if isinstance(value, dict):
        return dict.fromkeys(value, _REMOVED)
    return value if value is None or value == "" else _REMOVED
