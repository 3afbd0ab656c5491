"""The clock of a digest: one for a repository, and never started anew."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from gateway.config import Settings
from gateway.gates import maturity
from gateway.gates.gate import Sources
from gateway.gates.maturity import Facts
from gateway.model.errors import Code, Postponed
from gateway.model.gates import GateSetting, Level
from gateway.model.reference import Digest, Repository
from gateway.registry.responses import Answer
from gateway.store import first_seen
from gateway.store.first_seen import FirstSeen
from gateway.worker.registry_poller import RegistryPoller
from tests.integration.queue.test_rollback import created
from tests.integration.worker.test_retention import _ended
from tests.support.api_client import VAULT, Web
from tests.support.candidates import a_candidate

DAY = timedelta(days=1)
SETTINGS = Settings.from_environ({"HOME": "/"})


class SayingRegistry:
    """A registry that answers each HEAD of a manifest alike, or not at all."""

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, headers or {}
        self.asked = 0

    async def head_manifest(self, *_: object, **__: object) -> Answer:
        self.asked += 1
        if not self.status:
            raise Postponed(Code.REGISTRY_UNREACHABLE, "it does not answer")
        return Answer(self.status, self.headers, b"")


def a_digest() -> Digest:
    return Digest(f"sha256:{uuid4().hex * 2}")


async def asked(web: Web, digest: Digest, registry: Any = None, **rule: object) -> Facts:
    """Ask the gate, as a rollout does."""
    parsed = maturity.Rule.model_validate({"age": "3d", **rule})
    setting = GateSetting("g", Level.APPLICATION, "app", "maturity", "m", {}, True, False, datetime.now(UTC))
    answering: Any = registry or SayingRegistry()
    sources = Sources(web.pool, VAULT, answering, SETTINGS)
    return await maturity.gather(sources, setting, parsed, a_candidate(digest))


async def age(web: Web, digest: Digest, by: timedelta) -> None:
    """Let time pass."""
    await web.pool.execute(
        "UPDATE first_seen SET seen_at = seen_at - $2::interval, asked_at = asked_at - $2::interval WHERE digest = $1",
        digest,
        by,
    )


async def test_a_digest_keeps_its_clock_whoever_asks_again(web: Web) -> None:
    digest = a_digest()
    first = await asked(web, digest)
    assert first.first_seen_at == first.now
    await age(web, digest, 2 * DAY)
    several = await asyncio.gather(*(asked(web, digest) for _ in range(5)))  # as gateways do
    assert {one.first_seen_at for one in several} == {first.first_seen_at - 2 * DAY}
    async with web.pool.acquire() as connection:
        await first_seen.note_seen(connection, Repository.parse("docker.io/acme/web"), digest)
        other = await first_seen.select_first_seen(connection, Repository.parse("ghcr.io/acme/web"), digest, "app")
    assert (await asked(web, digest)).first_seen_at == first.first_seen_at - 2 * DAY
    assert other.seen_at == other.now  # another repository has a clock of its own


async def test_a_digest_that_was_seen_while_the_clock_was_ahead_does_not_wait_for_that_time(web: Web) -> None:
    digest = a_digest()
    await asked(web, digest)
    await age(web, digest, -365 * DAY)
    seen = await asked(web, digest)
    assert seen.first_seen_at == seen.now
    await age(web, digest, 3 * DAY)
    seen = await asked(web, digest)
    assert seen.now - seen.first_seen_at >= 3 * DAY


async def test_gateways_that_ask_first_at_once_agree(web: Web) -> None:
    digest = a_digest()
    several = await asyncio.gather(*(asked(web, digest) for _ in range(8)))
    assert len({one.first_seen_at for one in several}) == 1


async def test_a_gateway_that_began_to_ask_before_another_keeps_the_time_the_other_wrote(web: Web) -> None:
    digest, repository = a_digest(), Repository.parse("docker.io/acme/web")
    async with web.pool.acquire() as slow, slow.transaction():
        await slow.fetchval("SELECT now()")  # the time of this transaction is older than the one of the next
        async with web.pool.acquire() as quick:
            wrote = await first_seen.select_first_seen(quick, repository, digest, "app")
        assert await first_seen.select_first_seen(slow, repository, digest, "app") == FirstSeen(
            wrote.seen_at, wrote.seen_at
        )


async def test_a_deployment_that_ended_has_seen_the_digest_and_a_webhook_has_not(web: Web) -> None:
    await created(web)
    deployed, announced = a_digest(), a_digest()
    await _ended(web, 1, digest=deployed)
    await _ended(web, 1, expected_digest=announced)
    await web.pool.execute("UPDATE deployments SET finished_at = now() - interval '5 days'")
    await asked(web, deployed)
    facts = await asked(web, deployed)
    assert facts.now - facts.first_seen_at >= 5 * DAY
    facts = await asked(web, announced)
    assert facts.first_seen_at == facts.now


async def test_the_poller_starts_the_clock(web: Web) -> None:
    await created(web)
    digest = a_digest()
    registry: Any = SayingRegistry(headers={"Docker-Content-Digest": digest})
    await RegistryPoller(web.pool, VAULT, registry, {"*": 1}).poll_once()
    await web.pool.execute("UPDATE looks SET next_at = now()")
    await RegistryPoller(web.pool, VAULT, registry, {"*": 1}).poll_once()
    assert await web.pool.fetchval("SELECT count(*) FROM first_seen WHERE digest = $1", digest) == 1


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        (datetime.now(UTC) - 4 * DAY, True),
        (datetime.now(UTC) + DAY, False),  # not yet
        (datetime(1970, 1, 1, tzinfo=UTC), False),  # a constant
        ("yesterday", False),
        (None, False),
    ],
)
async def test_the_registry_is_believed_where_the_rule_says_so(web: Web, said: object, believed: bool) -> None:
    text = f"{said:%a, %d %b %Y %H:%M:%S GMT}" if isinstance(said, datetime) else said
    registry = SayingRegistry(headers={"Last-Modified": str(text)} if text else {})
    facts = await asked(web, a_digest(), registry, trust="registry")
    assert (facts.stored_at is not None) == believed
    assert (facts.out_since < facts.first_seen_at) == believed
    assert (await asked(web, a_digest(), registry)).stored_at is None  # by default only what was seen counts


@pytest.mark.parametrize("status", [0, 401, 404, 429, 500])
async def test_a_registry_that_does_not_answer_makes_no_digest_older(web: Web, status: int) -> None:
    registry = SayingRegistry(status, {"Last-Modified": "Tue, 01 Jan 2019 00:00:00 GMT"})
    facts = await asked(web, a_digest(), registry, trust="registry")
    assert (facts.out_since, registry.asked) == (facts.first_seen_at, 1)


async def test_a_digest_that_nobody_asks_about_is_forgotten_unless_a_deployment_waits_for_it(web: Web) -> None:
    await created(web)
    unused, waiting, used = a_digest(), a_digest(), a_digest()
    for one in (unused, waiting, used):
        await asked(web, one)
    await web.mutate("application.deploy", applicationId="app")
    await web.pool.execute("UPDATE deployments SET digest = $1", waiting)
    for one in (unused, waiting):
        await age(web, one, first_seen.KEPT + DAY)
    async with web.pool.acquire() as connection:
        await first_seen.delete_unused(connection)
    rows = await web.pool.fetch("SELECT digest FROM first_seen WHERE digest = ANY($1)", [unused, waiting, used])
    assert {row["digest"] for row in rows} == {waiting, used}
