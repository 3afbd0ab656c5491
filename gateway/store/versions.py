"""The versions that deployments ran, and the new version of an open swap, stored encrypted.

A rollback can return to the former. The next owner of an open swap needs the latter to finish it.
"""

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
    """An image by digest, and the application as it was configured then."""

    reference: Reference
    application: Application


def _place(deployment_id: str) -> str:
    return f"deployments:{deployment_id}:ran"


def _swap_place(application_id: str) -> str:
    return f"swaps:{application_id}:ran"


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that a rollback can return to, with its number among the application's versions."""

    deployment_id: str
    number: int
    image: Reference
    created_at: datetime


async def select_kept(connection: Connection, application_id: str) -> dict[str, KeptVersion]:
    """Return the versions that a rollback can return to, by deployment."""
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


def encrypt_version(vault: Vault, deployment_id: str, ran: Application) -> bytes:
    """Return the configuration that the deployment ran its image with, to store it in its row."""
    return vault.encrypt(_dump(ran), _place(deployment_id))


def encrypt_swap_version(vault: Vault, ran: Application) -> bytes:
    """Return the encrypted configuration of the swap's new version, to store it with the swap."""
    return vault.encrypt(_dump(ran), _swap_place(ran.application_id))


def _dump(ran: Application) -> str:
    return orjson.dumps(
        {
            "environment": ran.environment,
            "resolved": None if ran.resolved_variables is None else dict(ran.resolved_variables),
            "configuration": ran.configuration.model_dump(by_alias=True, exclude_defaults=True),
            "base": None if ran.adopted_spec is None else ran.adopted_spec.dump(),
        }
    ).decode()


async def select_version(
    connection: Connection, vault: Vault, application: Application, deployment_id: str
) -> RanVersion:
    """Return the version of a deployment. Raises NotFound, or Conflict if it never served."""
    row = await connection.fetchrow(
        "SELECT reference, digest, ran FROM deployments WHERE deployment_id = $1 AND application_id = $2",
        deployment_id,
        application.application_id,
    )
    if row is None:
        raise NotFound("Deployment not found")
    if row["ran"] is None or row["digest"] is None or row["reference"] is None:
        raise Conflict(f"deployment {deployment_id} never served: there is no version to roll back to")
    return RanVersion(
        Reference.parse(row["reference"]).without_digest().with_digest(Digest(row["digest"])),
        _as_it_ran(vault, application, _place(deployment_id), row["ran"]),
    )


async def select_swap_version(connection: Connection, vault: Vault, application: Application) -> Application | None:
    """Return the application with the configuration of its open swap. None without a swap, or if it is unknown.

    It is unknown if the application was adopted anew since then.
    """
    encrypted = await connection.fetchval("SELECT ran FROM swaps WHERE application_id = $1", application.application_id)
    if encrypted is None:
        return None
    try:
        ran = _as_it_ran(vault, application, _swap_place(application.application_id), encrypted)
    except UndecryptableSecret as error:
        undecryptable.log_once(error)
        return None
    return None if _is_adopted_anew(application, ran) else ran


def _is_adopted_anew(application: Application, ran: Application) -> bool:
    now, then = application.adopted_spec, ran.adopted_spec
    return now is not None and then is not None and now.object_id != then.object_id


def _as_it_ran(vault: Vault, application: Application, place: str, encrypted: bytes) -> Application:
    ran: dict[str, Any] = orjson.loads(vault.decrypt(encrypted, place))
    return replace(
        application,
        environment=ran["environment"],
        resolved_variables=ran.get("resolved"),
        configuration=Configuration.model_validate(ran["configuration"]),
        adopted_spec=None if ran.get("base") is None else AdoptedSpec.load(ran["base"]),  # missing in older rows
    )


async def select_serving(connection: Connection, vault: Vault, application: Application) -> Running | None:
    """Return the version that the last deployment started, else the adopted one; None if nothing ever served.

    If the application was adopted anew since then, it is the adopted one.
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
        ran = None if row is None else _as_it_ran(vault, application, _place(row["deployment_id"]), row["ran"])
    except UndecryptableSecret as error:
        undecryptable.log_once(error)  # then nothing is known of that version
        ran = None
    if row is None or ran is None or _is_adopted_anew(application, ran):
        return None if base is None else Running(base.reference, application.as_adopted(), None)
    reference = None if row["reference"] is None else Reference.parse(row["reference"]).without_digest()
    if reference is not None and row["digest"] is not None:
        reference = reference.with_digest(Digest(row["digest"]))
    return Running(reference, ran, row["spec_hash"], row["deployment_id"])


async def serves_adopted(connection: Connection, application_id: str) -> bool:
    """Tell whether no deployment has replaced the adopted version, or the last one restored it by a rollback.

    True also for an application that was neither adopted nor deployed. An adoption after a deployment does not count.
    """
    row = await connection.fetchrow(
        """
        SELECT kind = 'rollback' AND rolls_back_to IS NULL AS adopted
          FROM deployments
         WHERE application_id = $1 AND status = 'succeeded' AND replaced
         ORDER BY finished_at DESC
         LIMIT 1
        """,
        application_id,
    )
    return row is None or bool(row["adopted"])


async def select_previous(connection: Connection, application_id: str) -> str | None:
    """Return the deployment whose version served before the current one and differs from it.

    A rollback counts as the version that it brought back. None if no other version served before, or if that is the
    adopted one.
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
