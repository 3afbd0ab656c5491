"""Decides which gateway watches which engine, among the gateways that are connected to the database. No I/O.

Every gateway computes the same shares. If they differ for a moment, two gateways watch an engine, or none does for a
few seconds. Rollouts do not depend on the shares, since any gateway that reaches an engine may claim for it.
"""

import hashlib
from collections.abc import Collection, Iterable

_SUBSTITUTE_FOR = 60.0  # seconds for which a gateway watches an engine from the share of another gateway


def watcher(server_id: str, members: Iterable[int]) -> int | None:
    """Return the member that watches the server. When a member joins or leaves, only its own share moves."""
    return max(members, key=lambda number: (_weight(number, server_id), number), default=None)


def _weight(number: int, server_id: str) -> bytes:
    return hashlib.blake2b(f"{number} {server_id}".encode(), digest_size=8).digest()


class Shares:
    """The servers that one gateway watches, and those that it leaves to other gateways."""

    def __init__(self) -> None:
        #: this gateway's number among the members; 0 until it is a member
        self.number = 0
        #: the servers that another gateway watches
        self.left: set[str] = set()
        #: the gateways that share the servers, as of the last call of `follow`
        self.members: frozenset[int] = frozenset()
        #: the servers from the share of another gateway that this one watches for a while, and until when
        self._substituted: dict[str, float] = {}

    def watches(self, server_id: str | None) -> bool:
        """Return whether this gateway watches the server. Its own engine (None) it always watches."""
        return server_id is None or server_id not in self.left or server_id in self._substituted

    def register(self, server_ids: Iterable[str]) -> None:
        self.left.update(server_id for server_id in server_ids if self._is_left(server_id))

    def forget(self, server_id: str) -> None:
        self.left.discard(server_id)

    def follow(
        self, members: frozenset[int], registered: Iterable[str], unseen: Collection[str], now: float
    ) -> set[str]:
        """Share the registered servers among the members, and watch for a while those that no gateway has seen.

        Returns the servers that this gateway watches now and did not watch before, or the reverse. `now` is in seconds
        of any one clock.
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
