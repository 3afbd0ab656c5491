"""Tokens that end, kept while they are good for long enough, and fetched once however many ask.

One is renewed at half of its life. So what is handed out lasts a good while, for nodes of a Swarm too; and where it
cannot be renewed, there is half a life to mend that.
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
_MOST = 256  # that are kept
_TRY_AGAIN = timedelta(seconds=60)  # after one that could not be renewed


@dataclass(slots=True)
class _Held:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    credentials: Credentials | None = None
    renew_at: datetime = _PAST


class Tokens:
    """`fetch` raises Failed or Postponed."""

    def __init__(self, fetch: Callable[[AwsIdentity], Awaitable[Credentials]]) -> None:
        self._fetch = fetch
        self._held: dict[AwsIdentity, _Held] = {}

    async def get(self, amazon: AwsIdentity, refused: Credentials | None = None) -> Credentials:
        """Return one, another than was refused; raises Failed or Postponed."""
        if amazon not in self._held and len(self._held) >= _MOST:
            del self._held[next(iter(self._held))]
        held = self._held.setdefault(amazon, _Held())
        async with held.lock:
            known = held.credentials if held.credentials != refused else None
            if known is not None and datetime.now(UTC) < held.renew_at:
                return known
            try:
                return await self._renew(amazon, held)
            except RolloutError as error:
                if known is None or known.expires_at is None or known.expires_at <= datetime.now(UTC):
                    raise
                held.renew_at = datetime.now(UTC) + _TRY_AGAIN
                _LOG.warning("A token cannot be renewed yet", reason=str(error), ends=known.expires_at.isoformat())
                return known

    async def _renew(self, amazon: AwsIdentity, held: _Held) -> Credentials:
        fetched = await self._fetch(amazon)
        now = datetime.now(UTC)
        held.credentials = fetched
        held.renew_at = now + ((fetched.expires_at or now) - now) / 2
        return fetched
