"""Looks for pushes nobody has told of: images that cannot be hooked, and hooks that got lost.

    due ─▶ HEAD the tag, if it is no more what it was ─▶ moved, and somebody has missed it ─▶ dispatch
        └▶ list the tags ─▶ the highest of a policy is above what runs ───────────────────┘

Each registry is asked one thing at a time, at most once a second, less when it says so. The digest compared is what
the tag names, an index or an image, as rollouts write it down.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog
from yarl import URL

from gateway.background import BackgroundTasks, isolate_failures
from gateway.config import Settings
from gateway.model.errors import InvalidInput, RolloutError
from gateway.model.events import PushEvent
from gateway.model.reference import LATEST, Digest, Domain, Reference, Tag, parse_digest
from gateway.model.registries import ANONYMOUS, Login, select_login
from gateway.model.tag_policies import TagPolicy, highest_match, is_lower
from gateway.queue import ingest
from gateway.registry import responses
from gateway.registry.client import RegistryClient
from gateway.registry.rate_limit import cooldown
from gateway.registry.responses import Answer
from gateway.store import applications, deployments, poll_targets, registries
from gateway.store.database import Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.poll_targets import PollTarget

_LOG = structlog.get_logger()

_PACE = 1.0  # seconds between two looks at one registry
_IDLE = 5.0  # seconds, while nothing is due
_MERGE = 30.0  # seconds until it is noticed that something is wanted, or no more
_MOST_PAGES = 20  # of tags
_MOST_TAGS = 20_000
_FOUND, _UNCHANGED = 200, 304


class RegistryPoller:
    """Looks where and as often as it is wanted."""

    def __init__(self, pool: Pool, vault: Vault, registry: RegistryClient, seconds: dict[str, int]) -> None:
        self._pool = pool
        self._vault = vault
        self._registry = registry
        self._seconds = seconds
        self._resting: dict[Domain, float] = {}
        self._merged_at = float("-inf")

    async def poll_forever(self) -> None:
        while True:
            looked = await self.poll_once()
            await asyncio.sleep(_PACE if looked else _IDLE)

    async def poll_once(self) -> int:
        """Look at one thing that is due of each registry; return how many those were."""
        now = time.monotonic()
        self._resting = {domain: until for domain, until in self._resting.items() if until > now}
        async with transaction(self._pool) as connection:
            if now - self._merged_at > _MERGE:
                await poll_targets.merge_poll_targets(connection, self._seconds)
                self._merged_at = now
            due = await poll_targets.claim_poll_targets(connection, list(self._resting))
        await asyncio.gather(*map(self._look, due))
        return len(due)

    async def _look(self, look: PollTarget) -> None:
        with isolate_failures("missed pushes", str(look.repository)):
            try:
                await (self._at_tags(look) if look.tag is None else self._at_tag(look, look.tag))
            except RolloutError as error:
                self._rest(look, 429, {})
                _LOG.info("Cannot look for missed pushes", repository=str(look.repository), reason=str(error))

    async def _at_tag(self, look: PollTarget, tag: Tag) -> None:
        reference = Reference(look.repository, tag)
        answer = await self._registry.head_manifest(reference, await self._login(look), etag=look.etag)
        self._rest(look, answer.status, answer.headers)
        if answer.status not in {_FOUND, _UNCHANGED}:
            return
        digest = look.digest if answer.status == _UNCHANGED else _digest(answer)
        if digest is not None and digest != look.digest:
            async with statement(self._pool) as connection:
                missed = await poll_targets.is_missed(connection, look, digest)
            if missed:
                await self._tell(PushEvent(look.repository, tag, digest))
        async with statement(self._pool) as connection:
            etag = answer.headers.get("ETag") or (look.etag if answer.status == _UNCHANGED else None)
            await poll_targets.update_poll_target(connection, look, digest=digest, etag=etag)

    async def _at_tags(self, look: PollTarget) -> None:
        tags = await self._list(look)
        async with transaction(self._pool) as connection:
            rising = await poll_targets.select_version_policies(connection, look)
            reached = await deployments.select_current_references(
                connection, [application for application, _ in rising]
            )
        tops: list[tuple[str, Tag]] = []
        for application, policy in rising:
            running = [one.tag for one in reached.get(application, []) if one.tag]
            # A registry may have any number of tags.
            if top := await asyncio.to_thread(_above, tags, policy, running):
                tops.append((application, top))
        missed: dict[Tag, None] = {}
        async with transaction(self._pool) as connection:
            for application, top in tops:
                if not await poll_targets.is_known_reference(connection, application, Reference(look.repository, top)):
                    missed[top] = None
        if missed:
            await self._tell(*(PushEvent(look.repository, tag) for tag in missed))
        async with statement(self._pool) as connection:
            await poll_targets.update_poll_target(connection, look, digest=None, etag=None)

    async def _list(self, look: PollTarget) -> list[Tag]:
        """Return the tags; of a list without end the beginning."""
        reference, login, last = Reference(look.repository, LATEST), await self._login(look), ""
        tags: list[Tag] = []
        for _ in range(_MOST_PAGES):
            answer = await self._registry.list_tags(reference, login, last=last)
            self._rest(look, answer.status, answer.headers)
            if answer.status != _FOUND:
                break
            tags += map(Tag, responses.tags(answer.body) or ())
            before, last = last, following(answer.headers.get("Link", ""))
            if last in {"", before} or len(tags) >= _MOST_TAGS:
                break
        return tags[:_MOST_TAGS]

    async def _tell(self, *events: PushEvent) -> None:
        receipt = await ingest.ingest_polled(self._pool, events)
        _LOG.info(
            "Found a push nobody has told of",
            delivery=receipt.delivery_id,
            references=[str(event.reference) for event in events],
            deployments=[queued.deployment_id for queued in receipt.deployments],
        )

    def _rest(self, look: PollTarget, status: int, headers: Mapping[str, str]) -> None:
        seconds = cooldown(status, headers)
        if seconds > 0:
            self._resting[look.repository.domain] = time.monotonic() + seconds

    async def _login(self, look: PollTarget) -> Login:
        """Return the login of one that follows this."""
        async with transaction(self._pool) as connection:
            asking = await poll_targets.select_polling_application(connection, look)
            if asking is None:
                return ANONYMOUS
            application = await applications.select_application(connection, self._vault, asking)
            kept = await registries.select_registries(connection, self._vault, look.repository.domain)
            return select_login(look.repository, application.own_login, kept)


def _digest(answer: Answer) -> Digest | None:
    try:
        return parse_digest(answer.headers.get("Docker-Content-Digest", ""))
    except InvalidInput:
        return None


def _above(tags: list[Tag], policy: TagPolicy, reached: list[Tag]) -> Tag | None:
    """Return the highest version of the policy where it is above all that runs or starts."""
    top = highest_match(tags, policy)
    return top if top and all(is_lower(tag, top) for tag in reached) else None


def following(link: str) -> str:
    """Return the `last` of the next page, whose address is the registry's own whatever the link says."""
    if 'rel="next"' not in link:
        return ""
    try:
        return URL(link.partition("<")[2].partition(">")[0]).query.get("last", "")
    except ValueError:
        return ""


@asynccontextmanager
async def polling_registries(
    pool: Pool, vault: Vault, registry: RegistryClient, settings: Settings, background_tasks: BackgroundTasks
) -> AsyncIterator[RegistryPoller]:
    """Look until the block is left."""
    reconciler = RegistryPoller(pool, vault, registry, settings.reconciled)
    async with background_tasks.running("missed pushes", reconciler.poll_forever):
        yield reconciler
