"""Cache tokens that expire, and fetch each once for all concurrent callers.

A token is renewed at half of its lifetime. So a caller's token stays valid for a while, for the nodes of a Swarm too;
and where it cannot be renewed, half a lifetime is left to repair that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from gateway.model.ecr import AwsIdentity
from gateway.model.errors import RolloutError
from gateway.model.registries import Credentials

_LOG = structlog.get_logger()

_PAST = datetime.min.replace(tzinfo=UTC)
_MAX_ENTRIES = 256
_RETRY_INTERVAL = timedelta(seconds=60)  # after a renewal that failed


@dataclass(slots=True)
class _Entry:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    credentials: Credentials | None = None
    renew_at: datetime = _PAST


class TokenCache:
    """The tokens by AWS identity. `fetch` fetches one; it raises Failed or Postponed."""

    def __init__(self, fetch: Callable[[AwsIdentity], Awaitable[Credentials]]) -> None:
        self._fetch = fetch
        self._entries: dict[AwsIdentity, _Entry] = {}

    async def get(self, identity: AwsIdentity, denied: Credentials | None = None) -> Credentials:
        """Return a token, but not the one that the registry has denied; raises Failed or Postponed."""
        if identity not in self._entries and len(self._entries) >= _MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        entry = self._entries.setdefault(identity, _Entry())
        async with entry.lock:
            known = entry.credentials if entry.credentials != denied else None
            if known is not None and datetime.now(UTC) < entry.renew_at:
                return known
            try:
                return await self._renew(identity, entry)
            except RolloutError as error:
                if known is None or known.expires_at is None or known.expires_at <= datetime.now(UTC):
                    raise
                entry.renew_at = datetime.now(UTC) + _RETRY_INTERVAL
                _LOG.warning(
                    "Cannot renew a registry token; the old one is still valid",
                    reason=str(error),
                    ends=known.expires_at.isoformat(),
                )
                return known

    async def _renew(self, identity: AwsIdentity, entry: _Entry) -> Credentials:
        fetched = await self._fetch(identity)
        now = datetime.now(UTC)
        entry.credentials = fetched
        entry.renew_at = now + ((fetched.expires_at or now) - now) / 2
        return fetched
