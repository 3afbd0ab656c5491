"""What of a body may be kept. It performs no I/O.

A pipeline's variables are its secrets, and some senders repeat the secret that they share with us, or a token that
confirms a subscription. None of these is read here again.
"""

import re
from typing import Any

import orjson

from gateway.sources._json import unform

_REMOVED = "(removed)"
_DEEPEST = 64
_SECRET = re.compile(
    r"variables|[\w-]*(?:secret|passw(?:or)?d|token|credentials?|api[_-]?key|private[_-]?key|authorization|auth[_-]?header)"
    r"|(?:un)?subscribeurl|validation(?:code|url)",
    re.IGNORECASE,
)
# Without any of these words nothing is looked for.
_TELLTALE = re.compile(
    rb"variables|secret|passw|token|credential|api[_-]?key|private[_-]?key|authorization|auth[_-]?header"
    rb"|subscribeurl|validationcode|validationurl",
    re.IGNORECASE,
)


def keepable(body: bytes) -> bytes:
    """Return a body as it may be kept: without the values of what is called a secret, and of a pipeline's variables.

    One that is no JSON and speaks of such is not kept at all.
    """
    whole = unform(body)
    if not _TELLTALE.search(whole):
        return body
    try:
        loaded = orjson.loads(whole)
    except orjson.JSONDecodeError:
        return f"(removed: {len(body)} bytes that are no JSON, and may hold a secret)".encode()
    kept = _without(loaded, 0)
    return body if kept == loaded else orjson.dumps(kept)


def _without(value: Any, depth: int) -> Any:
    """Return it with what may be secret removed, and what is nested deeper than anybody's."""
    if not isinstance(value, list | dict):
        return value
    if depth > _DEEPEST:
        return _REMOVED
    if isinstance(value, list):
        return [_without(one, depth + 1) for one in value]
    return {name: _hidden(one) if _SECRET.fullmatch(name) else _without(one, depth + 1) for name, one in value.items()}


def _hidden(value: Any) -> Any:
    """Return what a secret's value is kept as: of variables the names."""
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
