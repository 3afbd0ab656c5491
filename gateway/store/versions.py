"""What each deployment ran, sealed: the way back to a version that is no longer kept on its engine."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import Application
from gateway.model.configuration import Configuration
from gateway.model.configuration_diff import Running
from gateway.model.errors import Conflict, NotFound, UndecryptableSecret
from gateway.model.reference import Digest, Reference
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault


@dataclass(frozen=True, slots=True)
class RanVersion:
    """An image by digest, and the application as it was when it ran it."""

    reference: Reference
    application: Application


def _place(deployment_id: str) -> str:
    return f"deployments:{deployment_id}:ran"


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that can be gone back to: which of the application's it is, counted from its first."""

    deployment_id: str
    number: int
    image: Reference
    created_at: datetime


async def select_kept(connection: Connection, application_id: str) -> dict[str, KeptVersion]:
    """Return by deployment the versions that the application can go back to."""
    rows = await connection.fetch(
        """
        SELECT deployment_id, reference, digest, created_at,
               row_number() OVER (ORDER BY created_at, deployment_id) AS n
          FROM deployments
         WHERE application_id = $1 AND ran IS NOT NULL AND digest IS NOT NULL AND reference IS NOT NULL
        """,
        application_id,
    )
    return {
        row["deployment_id"]: KeptVersion(
            row["deployment_id"],
            row["n"],
            Reference.parse(row["reference"]).without_digest().with_digest(Digest(row["digest"])),
            row["created_at"],
        )
        for row in rows
    }


async def update_version(connection: Connection, vault: Vault, deployment_id: str, ran: Application) -> None:
    """Write down how the deployment ran its image."""
    text = orjson.dumps(
        {
            "environment": ran.environment,
            "resolved": None if ran.resolved_variables is None else dict(ran.resolved_variables),
            "configuration": ran.configuration.model_dump(by_alias=True, exclude_defaults=True),
            "base": None if ran.adopted_spec is None else ran.adopted_spec.dump(),
        }
    ).decode()
    await connection.execute(
        "UPDATE deployments SET ran = $2 WHERE deployment_id = $1",
        deployment_id,
        vault.encrypt(text, _place(deployment_id)),
    )


async def select_version(
    connection: Connection, vault: Vault, application: Application, deployment_id: str
) -> RanVersion:
    """Return what a deployment of the application ran; raises NotFound, or Conflict where it never came to serve."""
    row = await connection.fetchrow(
        "SELECT reference, digest, ran FROM deployments WHERE deployment_id = $1 AND application_id = $2",
        deployment_id,
        application.application_id,
    )
    if row is None:
        raise NotFound("Deployment not found")
    if row["ran"] is None or row["digest"] is None or row["reference"] is None:
        raise Conflict(f"deployment {deployment_id} never came to serve: there is no version to go back to")
    return RanVersion(
        Reference.parse(row["reference"]).without_digest().with_digest(Digest(row["digest"])),
        _as_it_ran(vault, application, deployment_id, row["ran"]),
    )


def _as_it_ran(vault: Vault, application: Application, deployment_id: str, sealed: bytes) -> Application:
    ran: dict[str, Any] = orjson.loads(vault.decrypt(sealed, _place(deployment_id)))
    return replace(
        application,
        environment=ran["environment"],
        resolved_variables=ran.get("resolved"),
        configuration=Configuration.model_validate(ran["configuration"]),
        adopted_spec=None if ran.get("base") is None else AdoptedSpec.load(ran["base"]),  # older rows know none
    )


async def select_serving(connection: Connection, vault: Vault, application: Application) -> Running | None:
    """Return what the last deployment brought to serve, else what was adopted; None where nothing ever served.

    What was adopted anew since then is what serves.
    """
    row = await connection.fetchrow(
        """
        SELECT d.deployment_id, d.ran, d.digest, d.spec_hash, coalesce(d.reference, brought.reference) AS reference
          FROM deployments d
          LEFT JOIN deployments brought ON brought.deployment_id = d.rolls_back_to
         WHERE d.application_id = $1 AND d.status = 'succeeded' AND d.replaced AND d.ran IS NOT NULL
         ORDER BY d.finished_at DESC
         LIMIT 1
        """,
        application.application_id,
    )
    base = application.adopted_spec
    try:
        ran = None if row is None else _as_it_ran(vault, application, row["deployment_id"], row["ran"])
    except UndecryptableSecret as error:
        undecryptable.tell(error)  # then it is as with one that nothing is known of
        ran = None
    if row is None or ran is None or (base and ran.adopted_spec and base.object_id != ran.adopted_spec.object_id):
        return None if base is None else Running(base.reference, application.as_adopted(), None)
    reference = None if row["reference"] is None else Reference.parse(row["reference"]).without_digest()
    if reference is not None and row["digest"] is not None:
        reference = reference.with_digest(Digest(row["digest"]))
    return Running(reference, ran, row["spec_hash"], row["deployment_id"])


async def select_previous(connection: Connection, application_id: str) -> str | None:
    """Return the deployment whose version, another image or configuration, served before the one that serves now.

    A rollback counts as the version that it brought: what it turned away from did not serve after it.
    None where nothing did, or where that is what was adopted.
    """
    row = await connection.fetchval(
        """
        WITH shown AS (
            SELECT coalesce(rolls_back_to, deployment_id) AS version, finished_at
              FROM deployments
             WHERE application_id = $1 AND status = 'succeeded' AND replaced
        ),
        now AS (SELECT version FROM shown ORDER BY finished_at DESC LIMIT 1)
        SELECT CASE WHEN d.kind <> 'rollback' THEN d.deployment_id END
          FROM deployments before
          JOIN deployments d ON d.deployment_id = coalesce(before.rolls_back_to, before.deployment_id)
         CROSS JOIN now
          JOIN deployments serving ON serving.deployment_id = now.version
         WHERE before.application_id = $1 AND before.status = 'succeeded' AND before.replaced
           AND (d.ran IS NOT NULL OR d.kind = 'rollback')  -- a way back to it, or to what was adopted
           AND serving.kind <> 'rollback'  -- else what was adopted serves, and nothing was before that
           AND before.finished_at < serving.finished_at
           AND (d.digest, d.spec_hash) IS DISTINCT FROM (serving.digest, serving.spec_hash)
         ORDER BY before.finished_at DESC
         LIMIT 1
        """,
        application_id,
    )
    return None if row is None else str(row)
