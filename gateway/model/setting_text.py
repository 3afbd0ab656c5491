"""Settings as people read and write them: `8080:80/tcp`, not JSON. It performs no I/O."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

#: a word that stands in a list, or after a name, without being mistaken for more
_WORD = re.compile(r"[^\s,=\"'{}\[\]]+")
_PROBE_DETAILS = ("status", "interval", "timeout")


def describe(value: Any) -> str:
    """Return a value on one line: "" for none. What is neither a port, a mount, a probe nor a list of words is JSON.

    >>> describe([{"publishedPort": 8080, "targetPort": 80, "protocol": "tcp", "hostIp": "127.0.0.1"}])
    '127.0.0.1:8080:80/tcp'
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Mapping):
        return _mapping(value)
    return _sequence(value) if isinstance(value, Sequence) else _json(value)


def _sequence(values: Sequence[Any]) -> str:
    if all(isinstance(one, Mapping) for one in values):
        return ", ".join(map(_mapping, values))
    return ", ".join(map(_word, values)) if all(map(_is_word, values)) else _json(values)


def _mapping(value: Mapping[str, Any]) -> str:
    match value:
        case {"publishedPort": published, "targetPort": target}:
            return _port(value, published, target)
        case {"source": source, "target": target}:
            kind = " (file)" if value.get("type") == "file" else ""
            return f"{source}:{target}{':ro' if value.get('readOnly') else ''}{kind}"
        case {"target": target} if value.keys() <= {"target", "size"}:
            return f"{target}:size={value['size']}" if value.get("size") else str(target)
        case {"port": port} if value.keys() <= {"type", "path", "port", *_PROBE_DETAILS}:
            details = ", ".join(f"{name} {value[name]}" for name in _PROBE_DETAILS if value.get(name) is not None)
            where = f"{value.get('type') or 'http'}:{port}{value.get('path') or ''}"
            return f"{where} ({details})" if details else where
    words = {name: one for name, one in value.items() if one is not None}
    if all(map(_is_word, words.values())):
        return ", ".join(f"{name}={_word(one)}" for name, one in words.items())
    return _json(value)


def _port(port: Mapping[str, Any], published: Any, target: Any) -> str:
    address = port.get("hostIp")
    at = "" if address is None else f"[{address}]:" if ":" in address else f"{address}:"
    mode = " (on each node)" if port.get("publishMode") == "host" else ""
    return f"{at}{published}:{target}/{port.get('protocol') or 'tcp'}{mode}"


def _is_word(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and bool(_WORD.fullmatch(value)))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(value: Any) -> str:
    return json.dumps(_without_nothing(value), ensure_ascii=False, default=str)


def _without_nothing(value: Any) -> Any:
    """Leave the fields out that have no value, at any depth."""
    if isinstance(value, Mapping):
        return {name: _without_nothing(one) for name, one in value.items() if one is not None}
    return [_without_nothing(one) for one in value] if isinstance(value, list) else value
