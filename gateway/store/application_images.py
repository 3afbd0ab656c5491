"""The image of an application, and the one that a deployment is about to make its own."""

from dataclasses import dataclass

from gateway.store.database import Connection

#: of an application `a`: the image of its queued deployment, else of its running one, else its own
WANTED_IMAGE = """coalesce(
    (SELECT w.image FROM deployments w WHERE w.application_id = a.application_id AND w.status = 'queued'),
    (SELECT r.image FROM deployments r WHERE r.application_id = a.application_id AND r.status = 'running'),
    a.docker_image
)"""


async def select_image(connection: Connection, application_id: str) -> str | None:
    """Return the image of an application, as written; None if it has none."""
    image = await connection.fetchval("SELECT docker_image FROM applications WHERE application_id = $1", application_id)
    return None if image is None else str(image)


@dataclass(frozen=True, slots=True)
class WantedImage:
    """The image, as written, that the application has or gets once a deployment serves it."""

    image: str | None
    #: whether the subscription to the former tag changes with it; None if the application has the image already
    moves_subscription: bool | None


async def select_wanted_image(connection: Connection, application_id: str) -> WantedImage:
    """Return the image of a queued or running deployment, else the application's own."""
    row = await connection.fetchrow(
        f"""
        SELECT {WANTED_IMAGE} AS image,
               (SELECT d.moves_subscription
                  FROM deployments d
                 WHERE d.application_id = a.application_id AND d.status IN ('queued', 'running')
                   AND d.image IS NOT NULL
                 ORDER BY d.status
                 LIMIT 1) AS moves_subscription
          FROM applications a
         WHERE application_id = $1
        """,  # noqa: S608 - a constant
        application_id,
    )
    return WantedImage(row["image"], row["moves_subscription"]) if row else WantedImage(None, None)


async def update_image(connection: Connection, application_id: str, image: str) -> None:
    """Set the image of an application."""
    await connection.execute(
        "UPDATE applications SET docker_image = $2 WHERE application_id = $1", application_id, image
    )


async def keep_current_image(connection: Connection, application_id: str) -> None:
    """Prevent a queued or running deployment from changing the image."""
    await connection.execute(
        """
        UPDATE deployments
           SET image = NULL
         WHERE application_id = $1 AND status IN ('queued', 'running') AND image IS NOT NULL
        """,
        application_id,
    )
