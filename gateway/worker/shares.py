"""Which gateway watches which engine: each engine one of those that are connected to the database. No I/O.

Every gateway computes the same shares. Where they differ for a moment, an engine is watched twice, or by nobody for a
few seconds; rollouts do not depend on it, since any gateway that reaches an engine may claim for it.
"""

import hashlib
from collections.abc import Iterable


def watcher(server_id: str, members: Iterable[int]) -> int | None:
    """Return the member that watches the server; when one joins or leaves, only its own share moves."""
    return max(members, key=lambda number: (_weight(number, server_id), number), default=None)


def _weight(number: int, server_id: str) -> bytes:
    return hashlib.blake2b(f"{number} {server_id}".encode(), digest_size=8).digest()
