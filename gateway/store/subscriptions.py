"""Which applications follow which image."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.applications import Desired
from gateway.events import PushEvent
from gateway.reference import Reference
from gateway.store.database import Connection


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An application that follows a pushed tag, its queue held."""

    application_id: str
    desired: Desired
    event: PushEvent


async def lock_subscribers(connection: Connection, events: Sequence[PushEvent]) -> list[Subscriber]:
    """Return who follows these pushes; their queues are held, in one order, until the transaction ends.

    Without the locks two pushes at once would both see an empty queue; with them in any order they would
    wait for each other.
    """
    rows = await connection.fetch(
        """
        SELECT a.application_id, a.desired, p.number
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS p (repository, tag, number)
          JOIN subscriptions s USING (repository, tag)
          JOIN applications a USING (application_id)
         WHERE a.desired <> 'deleted' AND a.auto_deploy
         ORDER BY a.application_id, p.number
           FOR NO KEY UPDATE OF a
        """,
        [str(event.repository) for event in events],
        [event.tag for event in events],
    )
    return [Subscriber(row["application_id"], Desired(row["desired"]), events[row["number"] - 1]) for row in rows]


async def replace_subscription(connection: Connection, application_id: str, reference: Reference | None) -> None:
    """Let the application follow exactly this tag; nothing where there is none, or a digest decides."""
    await connection.execute("DELETE FROM subscriptions WHERE application_id = $1", application_id)
    if reference is not None and not reference.pinned:
        await connection.execute(
            "INSERT INTO subscriptions (application_id, repository, tag) VALUES ($1, $2, $3)",
            application_id,
            str(reference.repository),
            reference.tag,
        )
