"""Promotions: one row for each follower and digest."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from gateway.model.promotions import OPEN, Promotion, PromotionState
from gateway.model.reference import Digest
from gateway.store.database import Connection

_COLUMNS = "application_id, digest, follows, state, reason, proven_at, changed_at, next_look_at, deployment_id"
_KEPT = 100  # digests of a follower


def _from_row(row: asyncpg.Record) -> Promotion:
    return Promotion(**{**row, "digest": Digest(row["digest"]), "state": PromotionState(row["state"])})


_FOLLOWERS_LOCK = 0x6761746566676C77  # the key of an advisory lock


async def lock_followers(connection: Connection) -> None:
    """Take the lock for changing which application follows which, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _FOLLOWERS_LOCK)


async def select_followers(
    connection: Connection, only: Collection[str] | None = None, *, enabled: bool = True
) -> dict[str, Mapping[str, Any]]:
    """Return the rules of the promotion gates by follower: of all, or of `only` these followers.

    Without `enabled`, gates that are turned off are included.
    """
    rows = await connection.fetch(
        """
        SELECT g.application_id, g.rule
          FROM gates g
          JOIN applications a USING (application_id)
         WHERE g.kind = 'promotion' AND (g.enabled OR NOT $2) AND a.desired <> 'deleted'
           AND ($1::text[] IS NULL OR g.application_id = ANY($1))
         ORDER BY g.application_id
        """,
        None if only is None else list(only),
        enabled,
    )
    return {row["application_id"]: row["rule"] for row in rows}


async def select_unsettled(connection: Connection) -> Sequence[str]:
    """Return the applications that may have something to promote or to withdraw, also former followers.

    These have an open promotion, or their followed application runs a digest without a promotion to them. A withdrawn
    promotion does not count.
    """
    rows = await connection.fetch(
        """
        SELECT application_id FROM promotions WHERE state = ANY($1::promotion_state[])
         UNION
        SELECT g.application_id
          FROM gates g
          JOIN soaks s ON s.application_id = g.rule ->> 'follows' AND s.run IS NOT NULL AND s.longest > '0 seconds'
          LEFT JOIN promotions p ON p.application_id = g.application_id AND p.digest = s.digest
         WHERE g.kind = 'promotion' AND g.enabled AND g.application_id IS NOT NULL
           AND (p.state IS NULL OR p.state = 'withdrawn')
         ORDER BY 1
        """,
        list(OPEN),
    )
    return [row["application_id"] for row in rows]


async def select_open(connection: Connection, application_id: str) -> Promotion | None:
    """Return the promotion of a follower that is not over."""
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS}
          FROM promotions
         WHERE application_id = $1 AND state = ANY($2::promotion_state[])
        """,  # noqa: S608 - a constant
        application_id,
        list(OPEN),
    )
    return None if row is None else _from_row(row)


async def select_promotion(connection: Connection, application_id: str, digest: Digest) -> Promotion | None:
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM promotions WHERE application_id = $1 AND digest = $2",  # noqa: S608 - a constant
        application_id,
        digest,
    )
    return None if row is None else _from_row(row)


async def select_promotions(connection: Connection, application_id: str) -> list[Promotion]:
    """Return the promotions of a follower, the newest first: `delete_surplus` keeps them few."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM promotions WHERE application_id = $1 ORDER BY proven_at DESC, digest LIMIT {_KEPT}",  # noqa: S608 - constants
        application_id,
    )
    return [_from_row(row) for row in rows]


async def upsert_promotion(
    connection: Connection,
    *,
    application_id: str,
    digest: Digest,
    follows: str,
    state: PromotionState,
    now: datetime,
    reason: str = "",
    deployment_id: str | None = None,
    next_look_at: datetime | None = None,
) -> None:
    """Store a promotion in this state. A promotion that exists already counts as proven anew."""
    await connection.execute(
        """
        INSERT INTO promotions AS p (application_id, digest, follows, state, reason, deployment_id, next_look_at,
                                     proven_at, changed_at)
        VALUES ($1, $2, $3, $4::promotion_state, $5, $6, $7, $8, $8)
            ON CONFLICT (application_id, digest) DO UPDATE
           SET follows = excluded.follows, state = excluded.state, reason = excluded.reason,
               deployment_id = excluded.deployment_id, next_look_at = excluded.next_look_at,
               proven_at = CASE WHEN p.state = ANY($9::promotion_state[]) THEN p.proven_at ELSE excluded.proven_at END,
               changed_at = CASE WHEN p.state = excluded.state THEN p.changed_at ELSE excluded.changed_at END
        """,
        application_id,
        digest,
        follows,
        state,
        reason,
        deployment_id,
        next_look_at,
        now,
        list(OPEN),
    )


async def update_state(
    connection: Connection, one: Promotion, state: PromotionState, reason: str, now: datetime
) -> None:
    """Store the new state of a promotion, and why."""
    await connection.execute(
        """
        UPDATE promotions
           SET state = $3::promotion_state, reason = $4, next_look_at = NULL,
               changed_at = CASE WHEN state = $3::promotion_state THEN changed_at ELSE $5 END
         WHERE application_id = $1 AND digest = $2
        """,
        one.application_id,
        one.digest,
        state,
        reason,
        now,
    )


async def delete_surplus(connection: Connection) -> None:
    """Delete the oldest promotions of each follower that are over, beyond a number."""
    await connection.execute(
        """
        DELETE FROM promotions p
         USING (SELECT application_id, digest,
                       row_number() OVER (PARTITION BY application_id ORDER BY changed_at DESC) AS number
                  FROM promotions) AS ranked
         WHERE ranked.number > $1 AND p.state <> ALL($2::promotion_state[])
           AND (p.application_id, p.digest) = (ranked.application_id, ranked.digest)
        """,
        _KEPT,
        list(OPEN),
    )
