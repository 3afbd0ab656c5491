"""Polls registries for pushes without a webhook, or whose webhook was lost.

    due ─▶ HEAD the tag ─▶ its digest changed, and an application missed that ───────────┬─▶ ingest
        └▶ list the tags ─▶ the highest version of a policy is above what is deployed ───┘

Each registry gets one request at a time, at most one a second, and fewer when it limits them. The compared digest is
what the tag points to, an index or an image, as rollouts record it.
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
from gateway.store import applications, deployments, first_seen, poll_targets, registries
from gateway.store.database import Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.poll_targets import PollTarget

_LOG = structlog.get_logger()

_POLL_PAUSE = 1.0  # seconds between two requests to one registry
_IDLE_PAUSE = 5.0  # seconds, while nothing is due
_MERGE_INTERVAL = 30.0  # seconds between two reads of what is to be polled
_MAX_PAGES = 20  # of a tag list
_MAX_TAGS = 20_000
_OK, _NOT_MODIFIED = 200, 304


class RegistryPoller:
    """Polls the registries of the configured domains, each at its own interval."""

    def __init__(self, pool: Pool, vault: Vault, registry: RegistryClient, intervals: dict[str, int]) -> None:
        self._pool = pool
        self._vault = vault
        self._registry = registry
        self._intervals = intervals
        self._cooling_until: dict[Domain, float] = {}
        self._merged_at = float("-inf")

    async def poll_forever(self) -> None:
        while True:
            polled = await self.poll_once()
            await asyncio.sleep(_POLL_PAUSE if polled else _IDLE_PAUSE)

    async def poll_once(self) -> int:
        """Poll one due target of each registry; return how many were polled."""
        now = time.monotonic()
        self._cooling_until = {domain: until for domain, until in self._cooling_until.items() if until > now}
        async with statement(self._pool) as connection:
            if now - self._merged_at > _MERGE_INTERVAL:
                await poll_targets.merge_poll_targets(connection, self._intervals)
                self._merged_at = now
            due = await poll_targets.claim_poll_targets(connection, list(self._cooling_until))
        await asyncio.gather(*map(self._poll, due))
        return len(due)

    async def _poll(self, target: PollTarget) -> None:
        with isolate_failures("missed pushes", str(target.repository)):
            try:
                await (self._poll_tag_list(target) if target.tag is None else self._poll_tag(target, target.tag))
            except RolloutError as error:
                self._cool_down(target, 429, {})
                _LOG.info("Cannot poll for missed pushes", repository=str(target.repository), reason=str(error))

    async def _poll_tag(self, target: PollTarget, tag: Tag) -> None:
        reference = Reference(target.repository, tag)
        answer = await self._registry.head_manifest(reference, await self._login(target), etag=target.etag)
        self._cool_down(target, answer.status, answer.headers)
        if answer.status not in {_OK, _NOT_MODIFIED}:
            return
        digest = target.digest if answer.status == _NOT_MODIFIED else _digest(answer)
        if digest is not None and digest != target.digest:
            async with statement(self._pool) as connection:
                await first_seen.note_seen(connection, target.repository, digest)
                missed = await poll_targets.is_missed(connection, target, digest)
            if missed:
                await self._ingest(PushEvent(target.repository, tag, digest))
        async with statement(self._pool) as connection:
            etag = answer.headers.get("ETag") or (target.etag if answer.status == _NOT_MODIFIED else None)
            await poll_targets.update_poll_target(connection, target, digest=digest, etag=etag)

    async def _poll_tag_list(self, target: PollTarget) -> None:
        tags = await self._list_tags(target)
        async with transaction(self._pool) as connection:
            policies = await poll_targets.select_version_policies(connection, target)
            current = await deployments.select_current_references(
                connection, [application for application, _ in policies]
            )
        highest: list[tuple[str, Tag]] = []
        for application, policy in policies:
            running = [one.tag for one in current.get(application, []) if one.tag]
            # In a thread: a repository may have very many tags.
            if tag := await asyncio.to_thread(_newer_version, tags, policy, running):
                highest.append((application, tag))
        missed: dict[Tag, None] = {}
        async with transaction(self._pool) as connection:
            for application, tag in highest:
                if not await poll_targets.is_known_reference(
                    connection, application, Reference(target.repository, tag)
                ):
                    missed[tag] = None
        if missed:
            await self._ingest(*(PushEvent(target.repository, tag) for tag in missed))
        async with statement(self._pool) as connection:
            await poll_targets.update_poll_target(connection, target, digest=None, etag=None)

    async def _list_tags(self, target: PollTarget) -> list[Tag]:
        """Return the tags of the repository, at most 20,000."""
        reference, login, last = Reference(target.repository, LATEST), await self._login(target), ""
        tags: list[Tag] = []
        for _ in range(_MAX_PAGES):
            answer = await self._registry.list_tags(reference, login, last=last)
            self._cool_down(target, answer.status, answer.headers)
            if answer.status != _OK:
                break
            tags += map(Tag, responses.tags(answer.body) or ())
            before, last = last, next_page(answer.headers.get("Link", ""))
            if last in {"", before} or len(tags) >= _MAX_TAGS:
                break
        return tags[:_MAX_TAGS]

    async def _ingest(self, *events: PushEvent) -> None:
        receipt = await ingest.ingest_polled(self._pool, events)
        _LOG.info(
            "Found a push that no webhook has reported",
            delivery=receipt.delivery_id,
            references=[str(event.reference) for event in events],
            deployments=[queued.deployment_id for queued in receipt.deployments],
        )

    def _cool_down(self, target: PollTarget, status: int, headers: Mapping[str, str]) -> None:
        seconds = cooldown(status, headers)
        if seconds > 0:
            self._cooling_until[target.repository.domain] = time.monotonic() + seconds

    async def _login(self, target: PollTarget) -> Login:
        """Return the login of one application that polls the target."""
        async with transaction(self._pool) as connection:
            application_id = await poll_targets.select_polling_application(connection, target)
            if application_id is None:
                return ANONYMOUS
            application = await applications.select_application(connection, self._vault, application_id)
            configured = await registries.select_registries(connection, self._vault, target.repository.domain)
            return select_login(target.repository, application.own_login, configured)


def _digest(answer: Answer) -> Digest | None:
    try:
        return parse_digest(answer.headers.get("Docker-Content-Digest", ""))
    except InvalidInput:
        return None


def _newer_version(tags: list[Tag], policy: TagPolicy, current: list[Tag]) -> Tag | None:
    """Return the highest version that the policy allows, if it is above all versions that run or start."""
    highest = highest_match(tags, policy)
    return highest if highest and all(is_lower(tag, highest) for tag in current) else None


def next_page(link: str) -> str:
    """Return the `last` parameter of the next page. The link's host is ignored: only the registry itself is asked."""
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
    """Poll until the block is left."""
    poller = RegistryPoller(pool, vault, registry, settings.reconciled)
    async with background_tasks.running("missed pushes", poller.poll_forever):
        yield poller
