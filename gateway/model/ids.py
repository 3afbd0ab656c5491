"""Ids: of rows that are inserted often, and as people write them."""

import os
import time
from collections.abc import Iterable

from gateway.model.errors import Conflict

LEAST_PREFIX = 4  # characters of an id that a person may write for it: fewer are taken for a mistyped name


def new_id() -> str:
    """Return a UUID of version 7: ids that are made one after another stay together in an index.

    See https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7.
    """
    moment = f"{time.time_ns() // 1_000_000:012x}"
    random = os.urandom(10).hex()
    variant = "89ab"[int(random[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"


def meant_ids(word: str, named: Iterable[tuple[str, str]]) -> list[str]:
    """Return which ids a word means, among ids and names: the id itself, else those of this name, else one it begins.

    Raises Conflict where it begins several.
    """
    all_of = list(dict.fromkeys(named))
    exact = [one for one, _ in all_of if one == word] or [one for one, name in all_of if name == word]
    begun = [one for one, _ in all_of if len(word) >= LEAST_PREFIX and one.startswith(word)]
    if not exact and len(begun) > 1:
        raise Conflict(f"{word!r} can mean {', '.join(begun[:5])}: write more of the id")
    return exact or begun
