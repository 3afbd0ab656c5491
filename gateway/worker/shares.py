"""Which gateway watches which engine: each engine one of those that are connected to the database. No I/O.

Every gateway computes the same shares. Where they differ for a moment, an engine is watched twice, or by nobody for a
few seconds; rollouts do not depend on it, since any gateway that reaches an engine may claim for it.
"""

import hashlib
from collections.abc import Collection, Iterable

_SUBSTITUTE_FOR = 60.0  # seconds that a gateway watches an engine of another one's share


def watcher(server_id: str, members: Iterable[int]) -> int | None:
    """Return the member that watches the server; when one joins or leaves, only its own share moves."""
    return max(members, key=lambda number: (_weight(number, server_id), number), default=None)


def _weight(number: int, server_id: str) -> bytes:
    return hashlib.blake2b(f"{number} {server_id}".encode(), digest_size=8).digest()


class Shares:
    """What one gateway watches, and what it leaves to the others."""

    def __init__(self) -> None:
        #: this gateway's number among the members; 0 until it is one
        self.number = 0
        #: the servers that another gateway watches
        self.left: set[str] = set()
        #: the gateways that share, as they were followed last
        self.members: frozenset[int] = frozenset()
        #: until when this gateway watches a server of another one's share
        self._substituted: dict[str, float] = {}

    def watches(self, server_id: str | None) -> bool:
        """Return whether this gateway watches the server; its own engine it always does."""
        return server_id is None or server_id not in self.left or server_id in self._substituted

    def register(self, server_ids: Iterable[str]) -> None:
        self.left.update(server_id for server_id in server_ids if self._is_left(server_id))

    def forget(self, server_id: str) -> None:
        self.left.discard(server_id)

    def follow(
        self, members: frozenset[int], registered: Iterable[str], unseen: Collection[str], now: float
    ) -> set[str]:
        """Follow who is a member, and watch what nobody has seen; return the servers for which that changes something.

        `now` is in seconds of any one clock.
        """
        before = self.left - self._substituted.keys()
        if members != self.members:
            self.members = members
            self.left = {server_id for server_id in registered if self._is_left(server_id)}
        lasting = {one: until for one, until in self._substituted.items() if until > now and one in self.left}
        self._substituted = lasting | dict.fromkeys(self.left.intersection(unseen), now + _SUBSTITUTE_FOR)
        return before ^ (self.left - self._substituted.keys())

    def _is_left(self, server_id: str) -> bool:
        return watcher(server_id, self.members) not in {None, self.number}
