"""Deliveries that are accepted in batches do what each would do alone."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, cast

import pytest

from gateway.model.endpoints import Endpoint
from gateway.model.errors import Unavailable
from gateway.model.events import Ignored, Notification, PushEvent
from gateway.model.ids import new_id
from gateway.model.reference import Digest, Reference, Repository, Tag
from gateway.queue import ingest
from gateway.queue.accept import Acceptor
from gateway.queue.ingest import Receipt
from gateway.store import accept as store
from gateway.store.accept import Acceptance, Delivery
from gateway.store.database import Pool, connect
from tests.support.databases import create_database, empty

REPOSITORIES = (
    "docker.io/library/nginx", "r.io/acme/web", "r.io/acme/api", "other.io/acme/web",
    "localhost:5000/acme/web", "docker.io/acme/web", "r.io/a__b/c.d/e---f",
)  # fmt: skip
TAGS = ("latest", "v1.0.0", "v1.1.0", "v2.0.0")
DIGESTS = (None, Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64))
ENDPOINTS = ("one", "two")
NOW = datetime.now(UTC)

# Images as people write them; a policy; two that follow one image; one that follows another one beside its own.
APPLICATIONS = """
    INSERT INTO projects (project_id, name) VALUES ('p', 'p');
    INSERT INTO environments (environment_id, project_id, name) VALUES ('e', 'p', 'e');
    INSERT INTO applications (application_id, name, app_name, environment_id, docker_image) VALUES
        ('a', 'a', 'app-a', 'e', 'nginx'), ('b', 'b', 'app-b', 'e', 'r.io/acme/web:latest'),
        ('c', 'c', 'app-c', 'e', 'r.io/acme/web'), ('d', 'd', 'app-d', 'e', 'r.io/acme/api:v1.0.0'),
        ('f', 'f', 'app-f', 'e', 'nginx:v1.0.0');
    INSERT INTO subscriptions (application_id, repository, tag, pattern, from_image) VALUES
        ('a', 'docker.io/library/nginx', 'latest', 'latest', true), ('b', 'r.io/acme/web', 'latest', 'latest', true),
        ('c', 'r.io/acme/web', 'latest', 'latest', true), ('d', 'r.io/acme/api', 'v1.0.0', 'v1.0.0', true),
        ('f', 'docker.io/library/nginx', 'v1.0.0', 'v1.0.0', true), ('f', 'r.io/acme/web', 'v2.0.0', 'v2.0.0', false)
"""
BOTH_ENDPOINTS = """
    INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret) VALUES
        ('one', 'dockerhub', '', 'one', ''), ('two', 'github', '', 'two', '') ON CONFLICT DO NOTHING
"""
POLICY = """
    INSERT INTO subscriptions (application_id, repository, tag, rule, pattern)
    VALUES ('d', 'r.io/acme/api', '', 'semver', '^1')
"""

# What happens between two batches, to the deployments and to what people configure.
CHANGES = (
    """UPDATE deployments SET status = 'running', lease_until = now() WHERE status = 'queued' AND application_id = $1
          AND NOT EXISTS (SELECT FROM deployments r WHERE r.application_id = $1 AND r.status = 'running')""",
    """UPDATE deployments SET status = 'succeeded', finished_at = now(), lease_until = NULL
        WHERE status = 'running' AND application_id = $1""",
    """UPDATE deployments SET status = 'failed', finished_at = now(), lease_until = NULL
        WHERE status = 'running' AND application_id = $1""",
    """UPDATE deployments SET attempts = 3, next_attempt_at = now() + interval '1 hour', reason_code = 'denied',
              reason_message = 'x', expected_digest = NULL WHERE status = 'queued' AND application_id = $1""",
    """UPDATE deployments SET kind = 'start', reference = NULL, image = NULL
        WHERE status = 'queued' AND application_id = $1""",
    """UPDATE deployments SET kind = 'redeploy', forced = true
        WHERE status = 'queued' AND reference IS NOT NULL AND application_id = $1""",
    """UPDATE deployments SET forced = true, reference = 'r.io/acme/web:v9', image = 'r.io/acme/web:v9',
              moves_subscription = true WHERE status = 'queued' AND application_id = $1""",
    """UPDATE deployments SET kind = 'stop', reference = NULL, image = NULL
        WHERE status = 'queued' AND application_id = $1""",
    """UPDATE applications SET desired = CASE desired WHEN 'running' THEN 'stopped' ELSE 'running' END::desired
        WHERE application_id = $1""",
    "UPDATE applications SET auto_deploy = NOT auto_deploy WHERE application_id = $1",
    "UPDATE applications SET docker_image = 'r.io/acme/another' WHERE application_id = $1",
    "UPDATE delivery_keys SET seen_at = seen_at - interval '1 hour' WHERE $1 <> ''",
    "UPDATE deployments SET image = NULL WHERE status IN ('queued', 'running') AND application_id = $1",
    "DELETE FROM deployments WHERE status NOT IN ('queued', 'running') AND application_id = $1",
    """UPDATE deployments SET status = 'rolled_back', finished_at = now(), lease_until = NULL
        WHERE status = 'running' AND application_id = $1""",
    """UPDATE deployments SET status = 'cancelled', finished_at = now(), lease_until = NULL
        WHERE status = 'queued' AND application_id = $1""",
    "UPDATE delivery_keys SET seen_at = seen_at + interval '1 hour' WHERE $1 <> ''",  # the clock was set back
    "UPDATE delivery_keys SET seen_at = seen_at - interval '4 minutes' WHERE $1 <> ''",
    """DELETE FROM deliveries WHERE $1 <> ''
          AND delivery_id IN (SELECT delivery_id FROM deliveries ORDER BY delivery_id LIMIT 4)""",
    "UPDATE endpoints SET enabled = NOT enabled WHERE endpoint_id = CASE WHEN $1 < 'c' THEN 'one' ELSE 'two' END",
    "DELETE FROM endpoints WHERE endpoint_id = CASE WHEN $1 < 'c' THEN 'one' ELSE 'two' END",  # it is made again below
    """INSERT INTO subscriptions (application_id, repository, tag, pattern)
       VALUES ($1, 'other.io/acme/web', 'v1.1.0', 'v1.1.0') ON CONFLICT DO NOTHING""",
    """INSERT INTO subscriptions (application_id, repository, tag, pattern)
       VALUES ($1, 'r.io/acme/web', 'v1.0.0', 'v1.0.0') ON CONFLICT DO NOTHING""",
    """INSERT INTO subscriptions (application_id, repository, tag, rule, pattern)
       VALUES ($1, 'other.io/acme/web', '', 'glob', 'v2*') ON CONFLICT DO NOTHING""",
    "DELETE FROM subscriptions WHERE application_id = $1 AND NOT from_image",
    "DELETE FROM subscriptions WHERE application_id = $1",
    "UPDATE applications SET desired = 'deleted' WHERE application_id = $1",
)

ROWS = (
    """SELECT application_id, dense_rank() OVER newest, kind, status, forced, title, description, reference,
              expected_digest, image, moves_subscription, attempts, reason_code, superseded_by IS NOT NULL,
              next_attempt_at <= now(),
              ARRAY(SELECT delivery_id FROM deployment_deliveries l WHERE l.deployment_id = d.deployment_id
                     ORDER BY delivery_id)
         FROM deployments d WINDOW newest AS (PARTITION BY application_id ORDER BY created_at)
        ORDER BY 1, 2""",
    """SELECT delivery_id, endpoint_id, source, body, headers, verdict, ignored, duplicate_of, replay_of, ended
         FROM deliveries ORDER BY delivery_id""",
    "SELECT endpoint_id, key, delivery_id FROM delivery_keys ORDER BY 1, 2",
)


class Side:
    """A database, and the endpoints that are in it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def endpoint(self, endpoint_id: str) -> Endpoint:
        async with self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT source, xmin::text FROM endpoints WHERE endpoint_id = $1", endpoint_id
            )
        assert row is not None
        source, version = row
        none: Any = None
        return Endpoint(
            endpoint_id,
            source,
            "",
            "",
            none,
            none,
            none,
            frozenset(),
            {},
            (),
            (),
            none,
            True,
            NOW,
            none,
            version,
        )

    async def ingest(self, delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> ingest.Receipt:
        monkeypatch.setattr(ingest, "new_id", lambda: delivery.delivery_id)
        signed = delivery.key.startswith("signed")
        notification = Notification(delivery.pushes, delivery.ignored, delivery.key, delivery.may_repeat, signed)
        # The key is given; whether it is an id or a hash shows in how long it is valid.
        monkeypatch.setattr(ingest, "delivery_key", lambda *_: (delivery.key, delivery.key_window))
        endpoint = await self.endpoint(delivery.endpoint_id)
        return await ingest.ingest_delivery(self.pool, endpoint, delivery.body, notification, headers=delivery.headers)

    async def rows(self) -> list[list[tuple[object, ...]]]:
        async with self.pool.acquire() as connection:
            return [[tuple(row) for row in await connection.fetch(statement)] for statement in ROWS]


@pytest.fixture
async def sides(web_postgres: str, worker_id: str) -> AsyncIterator[list[Side]]:
    async with AsyncExitStack() as stack:
        made = []
        for name in ("batched", "alone"):
            url = await create_database(web_postgres, f"{name}_{worker_id}")
            made.append(Side(await stack.enter_async_context(connect(url))))
        yield made


def random_delivery(random: Random, number: int) -> Delivery:
    images = random.sample([(one, tag) for one in REPOSITORIES for tag in TAGS], random.choice([0, 1, 1, 1, 1, 2, 3]))
    kind, of = random.choice(("id", "id", "sha256", "sha256", "signed")), random.choice((2 * number + 2, 3))
    return Delivery(
        delivery_id=new_id(),
        endpoint_id=random.choice(ENDPOINTS),
        endpoint_version="",
        source="",
        key=f"{kind}:{random.randrange(of)}",
        key_window=timedelta(minutes=10) if kind == "sha256" else None,
        may_repeat=kind != "id" and random.random() < 0.3,
        headers={"number": str(number)},
        body=str(number).encode(),
        pushes=tuple(PushEvent(Repository.parse(one), Tag(tag), random.choice(DIGESTS)) for one, tag in images),
        ignored=(Ignored("", "a part"),) if random.random() < 0.2 else (),
    )


async def accept(side: Side, batch: Sequence[Delivery], subscribed: dict[str, str]) -> list[Acceptance]:
    """Accept a batch, and return what was decided of each."""
    known = []
    for one in batch:
        endpoint = await side.endpoint(one.endpoint_id)
        known.append(replaced(one, endpoint_version=endpoint.version, source=endpoint.source))
    async with side.pool.acquire() as connection:
        accepted = await store.accept(connection, known, subscribed)
    for acceptance in accepted:
        subscribed.update(acceptance.subscribed)
    return accepted


def told(answer: Acceptance | Receipt) -> tuple[object, ...]:
    """Return what a sender is told; the ids of deployments differ between databases."""
    applications = sorted(application_id for _, application_id in answer.deployments)
    return answer.verdict, answer.duplicate_of, applications, answer.ignored


def replaced(delivery: Delivery, **fields: Any) -> Delivery:
    return Delivery(**{name: getattr(delivery, name) for name in Delivery.__slots__} | fields)


SIZES = (1, 2, 5, 12)  # of batches


async def run_history(
    sides: list[Side], seed: int, monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int]
) -> tuple[int, int]:
    """Give both sides one history; return how many deliveries a batch decided, and how many there were."""
    random, subscribed = Random(seed), dict[str, str]()
    batched, alone = sides
    for side in sides:
        await side.pool.execute(APPLICATIONS)
        await side.pool.execute(BOTH_ENDPOINTS)
        if seed % 3 == 0:
            await side.pool.execute(POLICY)
    number = decided = 0
    for _ in range(8 if max(sizes) > 1 else 24):
        batch = []
        for _ in range(random.choice(sizes)):
            batch.append(random_delivery(random, number))
            number += 1
        answers = list(zip(batch, await accept(batched, batch, subscribed), strict=True))
        left = [one for one, answer in answers if answer.verdict is None]
        decided += len(batch) - len(left)
        for one in left:
            await batched.ingest(one, monkeypatch)
        for one, answer in answers:
            if answer.verdict is not None:
                assert told(answer) == told(await alone.ingest(one, monkeypatch)), f"seed {seed}: {one}"
        for one in left:
            await alone.ingest(one, monkeypatch)
        rows, expected = await batched.rows(), await alone.rows()
        assert rows == expected, f"seed {seed}, after {number} deliveries"
        await change_both(sides, random)
    return decided, number


async def change_both(sides: list[Side], random: Random) -> None:
    for _ in range(random.randrange(4)):
        change, application = random.choice(CHANGES), random.choice("abcdf")
        for side in sides:
            await side.pool.execute(change, application)
            await side.pool.execute(BOTH_ENDPOINTS)


async def clear(sides: list[Side]) -> None:
    for side in sides:
        async with side.pool.acquire() as connection:
            await empty(connection, "projects", "endpoints", "deliveries")


async def run_histories(
    sides: list[Side], seeds: Iterable[int], monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int] = SIZES
) -> None:
    decided = number = 0
    for seed in seeds:
        one, of = await run_history(sides, seed, monkeypatch, sizes)
        decided, number = decided + one, number + of
        await clear(sides)
    assert decided > number // 3, "most histories are for batches"


async def test_a_batch_leaves_the_rows_that_its_deliveries_leave_one_by_one(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_histories(sides, range(6), monkeypatch)


async def test_a_delivery_that_comes_alone_leaves_the_rows_that_it_leaves_outside_of_batches(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_histories(sides, range(6), monkeypatch, [1])


@pytest.mark.long
@pytest.mark.parametrize(("sizes", "seeds"), [(SIZES, range(6, 200)), ([1], range(6, 200))], ids=["batches", "alone"])
async def test_batches_of_many_histories_leave_the_rows_of_single_deliveries(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int], seeds: range
) -> None:
    await run_histories(sides, seeds, monkeypatch, sizes)


DEPLOYMENT = """
    INSERT INTO deployments
           (application_id, forced, title, kind, status, reference, image, moves_subscription, lease_until)
    VALUES ('a', true, '', {})
"""
# Pushes of images that come alone, and what happens between them.
HISTORIES = {
    "an application is about to follow the image": (
        DEPLOYMENT.format("'deploy', 'queued', 'r.io/acme/api:v1.0.0', 'r.io/acme/api:v1.0.0', true, null"),
        "r.io/acme/api:v1.0.0",
    ),
    "an application that runs is about to follow its image": (
        DEPLOYMENT.format("'deploy', 'running', 'docker.io/library/nginx:latest', 'nginx', true, now()"),
        "nginx",
    ),
    "an application that waits is about to follow its image": (
        DEPLOYMENT.format("'deploy', 'queued', 'docker.io/library/nginx:latest', 'nginx', true, null"),
        "nginx",
    ),
    "an application runs what it does not follow yet": (
        DEPLOYMENT.format("'deploy', 'running', 'r.io/acme/web:v9', 'r.io/acme/web:v9', false, now()"),
        "nginx",
    ),
    "what was subscribed at the path is gone": (
        "INSERT INTO subscriptions (application_id, repository, tag, pattern) VALUES ('a', 'y.io/acme/new', 'v', 'v')",
        "x.io/acme/new",
        "x.io/acme/new",
        "DELETE FROM subscriptions WHERE repository = 'y.io/acme/new'",
        "x.io/acme/new",
    ),
    "a start waits, and another image": (
        DEPLOYMENT.format("'start', 'queued', null, null, false, null"),
        "nginx",
        "UPDATE applications SET docker_image = 'r.io/acme/web:v9' WHERE application_id = 'a'",
        "nginx",
        "UPDATE deployments SET reference = 'r.io/acme/web:v9'",
        "nginx",
    ),
    "an attempt has failed": (
        "nginx",
        "UPDATE deployments SET attempts = 3, reason_code = 'denied', reason_message = 'x'",
        "nginx",
    ),
    "one push has a digest": (f"nginx:latest@{DIGESTS[1]}", "nginx", f"nginx:latest@{DIGESTS[2]}"),
    "a stop waits": (DEPLOYMENT.format("'stop', 'queued', null, null, false, null"), "nginx"),
    "the application is stopped": ("UPDATE applications SET desired = 'stopped'", "nginx"),
    "the application does not deploy by itself": ("UPDATE applications SET auto_deploy = false", "nginx"),
    "a policy follows the repository": (POLICY, "r.io/acme/api:v1.0.0", "r.io/acme/api:v1.1.0"),
    "an application follows another image beside its own": ("r.io/acme/web:v2.0.0",),
    "an application follows its image, but not because it is its image": (
        "UPDATE subscriptions SET from_image = false",
        "nginx",
    ),
}


async def test_a_push_that_comes_alone_leaves_the_rows_that_it_leaves_outside_of_batches(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    batched, alone = sides
    for name, steps in HISTORIES.items():
        subscribed = dict[str, str]()
        for side in sides:
            await side.pool.execute(APPLICATIONS)
            await side.pool.execute(BOTH_ENDPOINTS)
        for number, step in enumerate(steps):
            if " " in step:
                for side in sides:
                    await side.pool.execute(step)
                continue
            delivery = Delivery(new_id(), "one", "", "", str(number), None, False, {}, b"", push(step).events, ())
            (accepted,) = await accept(batched, [delivery], subscribed)
            if accepted.again:
                (accepted,) = await accept(batched, [delivery], subscribed)
            answer = accepted if accepted.verdict else await batched.ingest(delivery, monkeypatch)
            assert told(answer) == told(await alone.ingest(delivery, monkeypatch)), name
            assert await batched.rows() == await alone.rows(), name
        await clear(sides)


# -- at the same time


@pytest.fixture
async def side(sides: list[Side]) -> Side:
    await sides[0].pool.execute(APPLICATIONS)
    await sides[0].pool.execute(BOTH_ENDPOINTS)
    return sides[0]


def push(image: str) -> Notification:
    reference = Reference.parse(image)
    return Notification((PushEvent(reference.repository, reference.tag or Tag("latest"), reference.digest),))


async def test_a_delivery_that_cannot_be_stored_fails_alone(side: Side) -> None:
    acceptor, endpoint, hooks = Acceptor(side.pool), await side.endpoint("one"), range(20)
    headers = [{"n": object() if number == 13 else str(number)} for number in hooks]
    done = await asyncio.gather(
        *(
            acceptor.accept(endpoint, str(number).encode(), push("nginx"), cast(Any, headers[number]), within=30)
            for number in hooks
        ),
        return_exceptions=True,
    )
    assert [number for number in hooks if not isinstance(done[number], Receipt)] == [13]
    deployments = {one.deployments for one in done if isinstance(one, Receipt)}
    assert len(deployments) == 1, "all join one deployment"


async def test_the_same_body_twice_in_a_batch_is_a_duplicate(side: Side) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    first, second = await asyncio.gather(
        *(acceptor.accept(endpoint, b"same", push("nginx"), {}, within=30) for _ in range(2))
    )
    assert first is not None
    assert second is not None
    assert (first.verdict, second.duplicate_of) == ("queued", first.delivery_id)


async def test_a_repetition_of_what_deployed_nothing_stays_in_batches(side: Side) -> None:
    endpoint, notification = await side.endpoint("one"), push("x.io/acme/new")
    first = await Acceptor(side.pool).accept(endpoint, b"same", notification, {}, within=30)
    again = await Acceptor(side.pool).accept(endpoint, b"same", notification, {}, within=30)
    await side.pool.execute(
        "INSERT INTO subscriptions (application_id, repository, tag, pattern) VALUES ('a', 'y.io/acme/new', 'v', 'v')"
    )
    later = await Acceptor(side.pool).accept(endpoint, b"same", notification, {}, within=30)
    await side.pool.execute(
        "INSERT INTO subscriptions (application_id, repository, tag, pattern) "
        "VALUES ('a', 'x.io/acme/new', 'latest', 'latest')"
    )
    followed = await Acceptor(side.pool).accept(endpoint, b"same", notification, {}, within=30)
    assert first is not None
    assert again is not None
    assert later is not None
    assert (first.verdict, again.duplicate_of, later.duplicate_of) == ("ignored", *[first.delivery_id] * 2)
    assert again.ignored == first.ignored
    assert "x.io/acme/new has none, but y.io/acme/new has" in later.ignored[0].reason
    assert followed is None, "it is for `ingest_delivery`, since it deploys something now"


async def test_a_body_without_id_and_time_stays_in_batches_while_its_first_push_waits(side: Side) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    notification = replace(push("nginx"), may_repeat=True)
    first, again = [await acceptor.accept(endpoint, b"same", notification, {}, within=30) for _ in range(2)]
    assert first is not None
    assert again is not None
    assert (first.verdict, again.duplicate_of, again.ignored) == ("queued", first.delivery_id, ())
    await side.pool.execute("UPDATE deployments SET status = 'running', lease_until = now()")
    assert await acceptor.accept(endpoint, b"same", notification, {}, within=30) is None, "it is a new push"


async def test_a_delivery_that_comes_as_a_batch_ends_does_not_wait_for_another_one(side: Side) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    for number in range(3):
        assert await acceptor.accept(endpoint, str(number).encode(), push("nginx"), {}, within=8)


async def test_a_locked_application_delays_no_other_one(side: Side) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    async with side.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM applications WHERE application_id = 'b' FOR NO KEY UPDATE")
        locked, other = await asyncio.gather(
            acceptor.accept(endpoint, b"1", push("r.io/acme/web"), {}, within=30),
            acceptor.accept(endpoint, b"2", push("nginx"), {}, within=30),
        )
    assert locked is None
    assert other is not None
    assert other.verdict == "queued"


async def test_a_webhook_that_is_being_deleted_delays_no_other_one(side: Side) -> None:
    acceptor, one, two = Acceptor(side.pool), await side.endpoint("one"), await side.endpoint("two")
    async with side.pool.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM endpoints WHERE endpoint_id = 'one'")
        deleted, other = await asyncio.gather(
            acceptor.accept(one, b"1", push("nginx"), {}, within=30),
            acceptor.accept(two, b"2", push("nginx"), {}, within=30),
        )
    assert deleted is None
    assert other is not None
    assert other.verdict == "queued"


async def test_a_delivery_whose_first_attempt_is_not_committed_yet_delays_no_other_one(side: Side) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    key, _ = ingest.delivery_key(push("nginx"), b"repeated")
    async with side.pool.acquire() as connection, connection.transaction():
        await connection.execute("INSERT INTO delivery_keys VALUES ('one', $1, 'first')", key)
        receipts = await asyncio.gather(
            *(acceptor.accept(endpoint, body, push("nginx"), {}, within=8) for body in (b"repeated", b"other"))
        )
        # It is for `ingest_delivery`, which lets only the repeated one wait.
        assert receipts[0] is None
        other = receipts[1] or await ingest.ingest_delivery(side.pool, endpoint, b"other", push("nginx"))
    assert other.verdict == "queued"


async def test_a_batch_reads_no_queues_but_those_of_its_applications(side: Side) -> None:
    queues = """
        INSERT INTO applications (application_id, name, app_name, environment_id, docker_image)
        SELECT 'q' || n, n, 'q' || n, 'e', 'r.io/acme/q' || n FROM generate_series(1, 300) AS n;
        INSERT INTO deployments (deployment_id, application_id, kind, forced, title, reference, image)
        SELECT 'd' || n, 'q' || n, 'deploy', false, '', 'r.io/acme/q' || n, 'r.io/acme/q' || n
          FROM generate_series(1, 300) AS n
    """
    read = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'deployments'"
    delivery = replaced(random_delivery(Random(0), 0), endpoint_id="one", pushes=push("nginx").events)
    delivery = replaced(delivery, endpoint_version=(await side.endpoint("one")).version)
    async with side.pool.acquire() as connection:
        await connection.execute(queues)
        async with connection.transaction():
            (acceptance,) = await store.accept(connection, [delivery], {})
            rows = await connection.fetchval(read)
    assert acceptance.verdict == "queued"
    assert rows < 300


async def test_only_a_push_that_is_not_plain_is_given_to_the_statement_for_batches(side: Side) -> None:
    called = "SELECT funcname FROM pg_stat_xact_user_functions WHERE funcname LIKE 'accept%'"
    version = (await side.endpoint("one")).version

    async def functions(number: int, image: str) -> set[str]:
        delivery = replaced(random_delivery(Random(0), number), endpoint_id="one", key=str(number), ignored=())
        delivery = replaced(delivery, endpoint_version=version, pushes=push(image).events)
        async with side.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL track_functions = 'pl'")
            (acceptance,) = await store.accept(connection, [delivery], {})
            assert acceptance.verdict is not None
            return {row["funcname"] for row in await connection.fetch(called)}

    queued, joined, unfollowed = [
        await functions(number, image) for number, image in enumerate(("nginx", "nginx", "x.io/acme/new"))
    ]
    repeated, of_two = await functions(0, "nginx"), await functions(3, "r.io/acme/web")
    assert queued == joined == unfollowed == {"accept_lone"}
    assert repeated == of_two == {"accept_lone", "accept_3"}


async def test_gateways_that_accept_pushes_of_one_image_at_once_queue_one_deployment(side: Side) -> None:
    acceptors, endpoint = [Acceptor(side.pool) for _ in range(3)], await side.endpoint("one")

    async def send(number: int) -> Receipt:
        body, notification = str(number).encode(), push("r.io/acme/web")
        receipt = await acceptors[number % 3].accept(endpoint, body, notification, {}, within=30)
        return receipt or await ingest.ingest_delivery(side.pool, endpoint, body, notification)

    receipts = await asyncio.gather(*map(send, range(90)))
    assert {one.verdict for one in receipts} == {"queued"}
    counts = "SELECT (SELECT count(*) FROM deployments), (SELECT count(*) FROM deployment_deliveries)"
    assert tuple(await side.pool.fetchrow(counts) or ()) == (2, 180)


async def test_of_repetitions_that_gateways_accept_at_once_one_is_the_first(side: Side) -> None:
    acceptors, endpoint, notification = (
        [Acceptor(side.pool) for _ in range(3)],
        await side.endpoint("one"),
        push("x/new"),
    )

    async def send(number: int) -> Receipt:
        receipt = await acceptors[number % 3].accept(endpoint, b"same", notification, {}, within=30)
        return receipt or await ingest.ingest_delivery(side.pool, endpoint, b"same", notification)

    receipts = await asyncio.gather(*map(send, range(60)))
    (first,) = [one for one in receipts if one.duplicate_of is None]
    assert {(one.verdict, one.duplicate_of) for one in receipts if one is not first} == {
        ("duplicate", first.delivery_id)
    }
    assert {one.ignored for one in receipts} == {first.ignored}


async def test_an_image_that_a_crowd_follows_is_in_no_batch(side: Side) -> None:
    await side.pool.execute(
        """
        INSERT INTO applications (application_id, name, app_name, environment_id, docker_image)
        SELECT 'x' || n, 'x', 'x' || n, 'e', 'r.io/acme/base' FROM generate_series(1, 101) n;
        INSERT INTO subscriptions (application_id, repository, tag, pattern, from_image)
        SELECT 'x' || n, 'r.io/acme/base', 'latest', 'latest', true FROM generate_series(1, 101) n
        """
    )
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    crowd, other = await asyncio.gather(
        acceptor.accept(endpoint, b"1", push("r.io/acme/base"), {}, within=30),
        acceptor.accept(endpoint, b"2", push("nginx"), {}, within=30),
    )
    assert crowd is None
    assert other is not None
    assert await side.pool.fetchval("SELECT count(*) FROM deployments") == 1


async def test_a_delivery_that_waited_too_long_is_not_stored(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    reached, release = asyncio.Event(), asyncio.Event()

    async def held(*given: Any) -> Any:
        reached.set()
        await release.wait()
        return await store.accept(*given)

    monkeypatch.setattr("gateway.queue.accept.accept", held)
    first = asyncio.create_task(acceptor.accept(endpoint, b"1", push("nginx"), {}, within=30))
    await reached.wait()
    with pytest.raises(Unavailable, match="in time"):
        await acceptor.accept(endpoint, b"2", push("nginx"), {}, within=0.01)
    release.set()
    assert await first is not None
    assert await side.pool.fetchval("SELECT count(*) FROM deliveries") == 1


async def test_a_delivery_waits_for_no_batch_that_hangs(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    reached, release = asyncio.Event(), asyncio.Event()

    async def first_held(*given: Any) -> Any:
        if not reached.is_set():
            reached.set()
            await release.wait()
        return await store.accept(*given)

    monkeypatch.setattr("gateway.queue.accept.accept", first_held)
    first = asyncio.create_task(acceptor.accept(endpoint, b"1", push("nginx"), {}, within=30))
    await reached.wait()
    assert await acceptor.accept(endpoint, b"2", push("nginx"), {}, within=8)
    release.set()
    assert await first


async def test_a_delivery_stays_in_batches_while_its_application_is_locked_for_a_moment(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, endpoint, tried, tries = Acceptor(side.pool), await side.endpoint("one"), asyncio.Event(), []

    async def counted(*given: Any) -> Any:
        accepted = await store.accept(*given)
        tries.append(accepted)
        if len(tries) == 4:
            tried.set()
        return accepted

    monkeypatch.setattr("gateway.queue.accept.accept", counted)
    async with side.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM applications WHERE application_id = 'a' FOR UPDATE")
        delivery = asyncio.create_task(acceptor.accept(endpoint, b"1", push("nginx"), {}, within=8))
        await tried.wait()
    receipt = await delivery
    assert receipt is not None
    assert receipt.verdict == "queued"


async def test_the_next_batch_is_sent_before_the_senders_of_the_last_one_are_answered(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, endpoint, release, done = Acceptor(side.pool), await side.endpoint("one"), asyncio.Event(), []

    async def noted(connection: Any, deliveries: Sequence[Delivery], subscribed: Any) -> Any:
        done.append([one.body for one in deliveries])
        await release.wait()
        return await store.accept(connection, deliveries, subscribed)

    async def send(body: bytes) -> None:
        assert await acceptor.accept(endpoint, body, push("nginx"), {}, within=8)
        done.append([body, b"answered"])

    monkeypatch.setattr("gateway.queue.accept.accept", noted)
    # On a busy machine, a second batch would begin beside the first one.
    monkeypatch.setattr("gateway.queue.accept._SLOW", 60.0)
    first = asyncio.create_task(send(b"1"))
    while not done:  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)
    others = [asyncio.create_task(send(body)) for body in (b"2", b"3")]
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(first, *others)
    assert done[:3] == [[b"1"], [b"2", b"3"], [b"1", b"answered"]]


async def test_batches_of_senders_that_wait_for_their_answers_become_equal(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    acceptor, endpoint, sizes, enough = Acceptor(side.pool), await side.endpoint("one"), list[int](), asyncio.Event()
    many, sent = 8, 0

    async def noted(connection: Any, deliveries: Sequence[Delivery], subscribed: Any) -> list[Acceptance]:
        while sent < many + sum(sizes) and not enough.is_set():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
        sizes.append(len(deliveries))
        if len(sizes) == 6:
            enough.set()
        return [Acceptance("ignored")] * len(deliveries)

    async def send_forever() -> None:
        nonlocal sent
        while True:
            sent += 1
            await acceptor.accept(endpoint, b"", push("nginx"), {}, within=8)

    monkeypatch.setattr("gateway.queue.accept.accept", noted)
    senders = []
    for _ in range(many):  # so that the first one is alone in its batch
        senders.append(asyncio.create_task(send_forever()))
        await asyncio.sleep(0)
    await enough.wait()
    for sender in senders:
        sender.cancel()
    assert sizes[:6] == [1, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE endpoints SET enabled = false",
        "UPDATE endpoints SET secret = 'other', former_secret = secret, former_until = now()",
        "DELETE FROM endpoints",
    ],
)
async def test_a_delivery_of_an_endpoint_that_has_changed_is_not_accepted(side: Side, change: str) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    repeated = push("x.io/acme/new")  # it deploys nothing, the second time either
    assert await acceptor.accept(endpoint, b"repeated", repeated, {}, within=30)
    await side.pool.execute(change)
    assert await acceptor.accept(endpoint, b"1", push("nginx"), {}, within=30) is None
    assert await acceptor.accept(endpoint, b"repeated", repeated, {}, within=30) is None
    assert await side.pool.fetchval("SELECT count(*) FROM deliveries") == 1


async def test_a_delivery_read_before_a_change_is_not_accepted_beside_one_read_after_it(side: Side) -> None:
    former = await side.endpoint("one")
    await side.pool.execute("UPDATE endpoints SET secret = 'other'")
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    first, *done = await asyncio.gather(
        *(acceptor.accept(one, str(number).encode(), push("nginx"), {}, within=30)
          for number, one in enumerate([endpoint, former, endpoint, former]))
    )  # fmt: skip
    assert [first is None, *(one is None for one in done)] == [False, True, False, True]


async def test_the_reason_of_an_unmatched_push_names_what_is_subscribed_now(side: Side) -> None:
    acceptor, endpoint = Acceptor(side.pool), await side.endpoint("one")
    before = await acceptor.accept(endpoint, b"1", push("x.io/acme/new"), {}, within=30)
    await side.pool.execute(
        "INSERT INTO subscriptions (application_id, repository, tag, pattern) VALUES ('a', 'y.io/acme/new', 'v', 'v')"
    )
    after = await acceptor.accept(endpoint, b"2", push("x.io/acme/new"), {}, within=30)
    assert before is not None
    assert after is not None
    assert "x.io/acme/new has none; to subscribe" in before.ignored[0].reason
    assert "x.io/acme/new has none, but y.io/acme/new has" in after.ignored[0].reason


async def test_the_reason_of_an_unmatched_push_names_its_own_repository_among_many_of_its_path(side: Side) -> None:
    endpoint, notification = await side.endpoint("one"), push("z.io/acme/new")
    await side.pool.execute(
        """
        INSERT INTO subscriptions (application_id, repository, tag, pattern)
        SELECT 'a', 'y.io/acme/new', n::text, n::text FROM generate_series(1, 50) AS n
         UNION ALL
        SELECT 'a', 'z.io/acme/new', 'own', 'own'
        """
    )
    receipts = [
        await Acceptor(side.pool).accept(endpoint, b"1", notification, {}, within=30),
        await ingest.ingest_delivery(side.pool, endpoint, b"2", notification),
    ]
    reasons = {receipt.ignored[0].reason for receipt in receipts if receipt is not None}
    assert len(reasons) == 1
    assert "the subscriptions of z.io/acme/new are exact own; to subscribe" in reasons.pop()
