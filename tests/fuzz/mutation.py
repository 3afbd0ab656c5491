"""Inputs made of others: one part of the JSON exchanged, or some bytes."""

import json
from random import Random
from typing import Any

# What tends to matter where names, references and headers are read.
_WORDS = (
    *("", "/", ":", "@", "..", "://", "~1", "%2F", "%00", "{", "}", "*", "-", "_", " ", "\n", "\0", "ü", "A", "=", '"'),
    *("latest", "localhost", "[::1]:5", "sha256:", "sha256-", "sha256:" + 64 * "a", "docker.io/", "pkg:oci/", "whsec_"),
)
_VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**63, 1.5, 1e308, "", [], {}, [[]], {"": None}, "a" * 5000)


def mutate(data: bytes, random: Random) -> bytes:
    head, blank, body = data.partition(b"\n\n")
    if not blank:
        head, body = b"", data
    try:
        value = json.loads(body)
    except ValueError:
        return _bytes(data, random)
    if random.random() < 0.2:
        return _bytes(data, random)
    for _ in range(random.randint(1, 3)):
        value = _alter(value, value, random)
    return head + blank + json.dumps(value).encode()


def _alter(value: Any, whole: Any, random: Random) -> Any:
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return _other(value, whole, random)
    key = random.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
    changed = value.copy()
    if random.random() < 0.1:
        del changed[key]
    else:
        changed[key] = _alter(value[key], whole, random)
    return changed


def _other(value: Any, whole: Any, random: Random) -> Any:
    if isinstance(value, str) and random.random() < 0.6:
        place, word = random.randint(0, len(value)), random.choice(_WORDS)
        return random.choice((value[:place] + word + value[place:], value[:place], value * 2, value.upper(), word))
    if isinstance(value, list) and random.random() < 0.5:
        return value * random.randint(2, 20)
    return random.choice((*_VALUES, whole))


def _bytes(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randint(0, len(changed))
        word = random.choice(_WORDS).encode() if random.random() < 0.5 else random.randbytes(1)
        changed[place : place + random.randint(0, len(word))] = word
    return bytes(changed)
