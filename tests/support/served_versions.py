"""Records what a deployment ran its image with, as its end does."""

from gateway.model.applications import Application
from gateway.store import versions
from gateway.store.database import Connection
from tests.support.api_client import VAULT


async def record_version(connection: Connection, deployment_id: str, ran: Application) -> None:
    await connection.execute(
        "UPDATE deployments SET ran = $2 WHERE deployment_id = $1",
        deployment_id,
        versions.encrypt_version(VAULT, deployment_id, ran),
    )
