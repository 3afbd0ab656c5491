"""Subscriptions: which pushes deploy which applications."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

import asyncpg
import orjson

from gateway.model.applications import Desired, Subscription
from gateway.model.errors import Conflict, InvalidInput, NotFound
from gateway.model.events import PushEvent
from gateway.model.matching import Candidate, PushFilter, PushMatcher
from gateway.model.reference import Reference, Repository
from gateway.model.tag_policies import Rule, TagPolicy
from gateway.store.application_images import WANTED_IMAGE
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, Page

_MOST = 100  # subscriptions of an application

POLICY = "rule, pattern, include, exclude, prereleases, downgrades"
_RECONCILE = "(SELECT reconcile FROM applications a WHERE a.application_id = subscriptions.application_id) AS reconcile"
_COLUMNS = f"subscription_id, application_id, repository, {POLICY}, from_image, created_at, {_RECONCILE}"


def policy_of(row: asyncpg.Record) -> TagPolicy:
    return TagPolicy(
        Rule(row["rule"]),
        row["pattern"],
        tuple(row["include"]),
        tuple(row["exclude"]),
        row["prereleases"],
        row["downgrades"],
    )


def _from_row(row: asyncpg.Record) -> Subscription:
    return Subscription(
        subscription_id=row["subscription_id"],
        application_id=row["application_id"],
        repository=Repository.parse(row["repository"]),
        policy=policy_of(row),
        from_image=row["from_image"],
        created_at=row["created_at"],
        poll_interval=row["reconcile"],
    )


# The subscriptions to the tag of the push `p`. A queued or running deployment with another image has changed the
# subscription already: meanwhile, pushes of the new tag match.
_BY_TAG = f"""
    SELECT f.application_id, f.from_image, {POLICY}
      FROM subscriptions f
     WHERE f.repository = p.repository AND f.tag = p.tag
       AND NOT (f.from_image AND EXISTS (
               SELECT FROM deployments d
                WHERE d.application_id = f.application_id AND d.status IN ('queued', 'running')
                  AND d.image IS NOT NULL AND d.moves_subscription
                  AND d.reference <> p.repository || ':' || p.tag
           ))
     UNION
    SELECT d.application_id, true, 'exact'::rule, p.tag, '{{}}', '{{}}', false, false
      FROM deployments d
     WHERE d.reference = p.repository || ':' || p.tag AND d.status IN ('queued', 'running')
       AND d.image IS NOT NULL AND d.moves_subscription
"""  # noqa: S608 - constants

# A subscription with another rule is one row, however many pushes of its repository there are: the policy then decides
# which it matches. `number` is that of the push, null for any push of the repository.
_SUBSCRIBED = f"""
    WITH pushes AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS p (repository, tag, number)
    )
    SELECT s.application_id, s.from_image, p.number, p.repository, {POLICY}
      FROM pushes p
     CROSS JOIN LATERAL ({_BY_TAG}) AS s
     UNION ALL
    SELECT f.application_id, false, NULL, f.repository, {POLICY}
      FROM (SELECT DISTINCT repository FROM pushes) AS p
      JOIN subscriptions f ON f.repository = p.repository AND f.tag = ''
"""  # noqa: S608 - constants


async def lock_subscribed(
    connection: Connection, events: Sequence[PushEvent], *, only: str | None = None
) -> list[Candidate]:
    """Return the applications that subscribe to these pushes, or of these only `only`, and lock their queues.

    The locks are taken in one order and held until the transaction ends. Without them two concurrent pushes would both
    see an empty queue; in any order they could wait for each other.
    """
    rows = await connection.fetch(
        f"""
        SELECT a.application_id, a.desired, {WANTED_IMAGE} AS image, s.number, s.repository, s.from_image, {POLICY}
          FROM ({_SUBSCRIBED}) AS s
          JOIN applications a USING (application_id)
         WHERE a.desired <> 'deleted' AND a.auto_deploy AND ($3::text IS NULL OR a.application_id = $3)
         ORDER BY a.application_id, s.number, s.from_image DESC
           FOR NO KEY UPDATE OF a
        """,  # noqa: S608 - constants
        [str(event.repository) for event in events],
        [event.tag for event in events],
        only,
    )
    candidates, pushes = [], PushMatcher(events)
    for application_id, group in groupby(rows, key=lambda row: str(row["application_id"])):
        found = list(group)
        filters = tuple(
            PushFilter(row["number"], row["repository"], policy_of(row), row["from_image"]) for row in found
        )
        for one in filters:
            if pushes.evaluate(one):
                await asyncio.sleep(0)  # let other tasks run: there may be many pushes and many policies
        if matches := pushes.matches(filters):
            image = found[0]["image"]
            desired = Desired(found[0]["desired"])
            candidates.append(Candidate(application_id, desired, Reference.parse(image) if image else None, matches))
    return candidates


@dataclass(frozen=True, slots=True)
class SubscribedPolicy:
    """A repository that is subscribed to, and the policy."""

    repository: Repository
    policy: TagPolicy


async def select_subscribed(connection: Connection, repositories: Collection[Repository]) -> list[SubscribedPolicy]:
    """Return subscriptions to these repositories, and to the same paths at other hosts: a few of each."""
    rows = await connection.fetch(
        "SELECT subscribed_at(path) AS lines FROM unnest($1::text[]) AS wanted (path)",
        list({repository.path for repository in repositories}),
    )
    return [policy for row in rows for policy in parse_subscribed(row["lines"])]


def parse_subscribed(lines: str) -> list[SubscribedPolicy]:
    """Return what `subscribed_at` of migrations/0011_subscribed_at.sql tells of one path."""
    return [
        SubscribedPolicy(Repository.parse(name), TagPolicy(Rule(rule), pattern))
        for name, rule, pattern in (orjson.loads(lines) if lines else ())
    ]


async def select_subscriptions(connection: Connection, application_id: str) -> list[Subscription]:
    """Return the subscriptions of an application."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM subscriptions
         WHERE application_id = $1
         ORDER BY from_image DESC, created_at, subscription_id
        """,  # noqa: S608 - constants
        application_id,
    )
    return [_from_row(row) for row in rows]


async def select_subscriptions_page(
    connection: Connection,
    application_id: str | None = None,
    *,
    only: Collection[str] | None = None,
    page: Page = FIRST,
) -> list[Subscription]:
    """Return a page of the subscriptions of one application, of `only` these, or of all."""
    wanted = only if application_id is None else {application_id} if only is None else {application_id} & set(only)
    newest = "(created_at, subscription_id) < ($1, $2) ORDER BY created_at DESC, subscription_id DESC LIMIT $3"
    if wanted is None:
        rows = await connection.fetch(f"SELECT {_COLUMNS} FROM subscriptions WHERE {newest}", *page.bounds)  # noqa: S608
    else:
        # Each application's are read from their index: a plan for any of them would read all subscriptions in order.
        rows = await connection.fetch(
            f"""
            WITH found AS (
                SELECT s.*
                  FROM unnest($4::text[]) AS w (application_id)
                 CROSS JOIN LATERAL (
                       SELECT * FROM subscriptions WHERE application_id = w.application_id AND {newest}
                       ) AS s
            )
            SELECT {_COLUMNS} FROM found AS subscriptions WHERE {newest}
            """,  # noqa: S608 - constants
            *page.bounds,
            list(wanted),
        )
    return [_from_row(row) for row in rows]


async def select_subscription(connection: Connection, subscription_id: str) -> Subscription:
    """Return a subscription. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM subscriptions WHERE subscription_id = $1",  # noqa: S608 - constants
        subscription_id,
    )
    if row is None:
        raise NotFound("Subscription not found")
    return _from_row(row)


async def insert_subscription(
    connection: Connection, application_id: str, repository: Repository, policy: TagPolicy
) -> Subscription:
    """Add a subscription. Raises Conflict if it exists, or if the application has too many."""
    follows = await connection.fetchval("SELECT count(*) FROM subscriptions WHERE application_id = $1", application_id)
    if follows >= _MOST:
        raise Conflict(f"an application has at most {_MOST} subscriptions: remove one, or use a wider tag policy")
    try:
        row = await connection.fetchrow(
            f"""
            INSERT INTO subscriptions (application_id, repository, tag, {POLICY})
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
            RETURNING {_COLUMNS}
            """,  # noqa: S608 - constants
            application_id,
            str(repository),
            policy.pattern if policy.rule is Rule.EXACT else "",
            policy.rule,
            policy.pattern,
            policy.include,
            policy.exclude,
            policy.prereleases,
            policy.downgrades,
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict(f"the application subscribes to {policy} of {repository} already") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound("Application not found") from error
    if row is None:
        raise NotFound("Application not found")
    return _from_row(row)


async def delete_subscription(connection: Connection, subscription_id: str) -> Subscription:
    """Delete a subscription and return it. Raises NotFound, or InvalidInput for that of the application's image."""
    found = await select_subscription(connection, subscription_id)
    if found.from_image:
        raise InvalidInput(
            "this subscription belongs to the application's image: set autoDeploy to false, or another dockerImage",
            field="subscriptionId",
        )
    await connection.execute("DELETE FROM subscriptions WHERE subscription_id = $1", subscription_id)
    return found


async def replace_subscription(connection: Connection, application_id: str, reference: Reference | None) -> None:
    """Replace the subscription to the application's image. An image without a tag, or with a digest, has none.

    Other subscriptions stay.
    """
    await connection.execute("DELETE FROM subscriptions WHERE application_id = $1 AND from_image", application_id)
    if reference is not None and not reference.pinned:
        await connection.execute(
            """
            INSERT INTO subscriptions (application_id, repository, tag, rule, pattern, from_image)
            VALUES ($1, $2, $3, 'exact', $3, true)
            """,
            application_id,
            str(reference.repository),
            reference.tag,
        )


async def update_reconcile(connection: Connection, application_id: str, seconds: int | None) -> None:
    """Set the poll interval of an application in seconds; 0: never, None: as its registry."""
    await connection.execute(
        "UPDATE applications SET reconcile = $2 WHERE application_id = $1", application_id, seconds
    )
