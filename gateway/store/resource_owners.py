"""The application and project that a resource belongs to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.model.api_keys import Grants
from gateway.store import applications
from gateway.store.database import Connection
from gateway.store.encryption import Vault


class ResourceKind(StrEnum):
    """Kinds of resources with an id."""

    APPLICATION = "application"
    DEPLOYMENT = "deployment"
    SUBSCRIPTION = "subscription"
    ENVIRONMENT = "environment"
    PROJECT = "project"
    PORT = "port"
    MOUNT = "mount"
    DOMAIN = "domain"
    GATE = "gate"
    APPROVAL = "approval"
    GROUP = "group"
    RELEASE = "release"
    ALERT = "alert"
    ALERT_DELIVERY = "alert_delivery"


@dataclass(frozen=True, slots=True)
class ResourceOwner:
    """`application_id` is None for a project, an environment, or what belongs to one."""

    application_id: str | None
    project_id: str | None


_OWNER = "SELECT application_id, e.project_id FROM applications a LEFT JOIN environments e USING (environment_id)"

_OWNER_OF_ALERT = """
    SELECT t.application_id, coalesce(t.project_id, e.project_id) AS project_id
      FROM alerts t
      LEFT JOIN applications a USING (application_id)
      LEFT JOIN environments e USING (environment_id)
"""


def _has_part(parts: str, field: str) -> str:
    named = f"jsonb_build_object('{field}', $1::text)"
    return f"a.configuration @> jsonb_build_object('{parts}', jsonb_build_array({named}))"


_SELECT: Mapping[ResourceKind, str] = {
    ResourceKind.APPLICATION: f"{_OWNER} WHERE application_id = $1",
    ResourceKind.DEPLOYMENT: f"{_OWNER} JOIN deployments d USING (application_id) WHERE deployment_id = $1",
    ResourceKind.SUBSCRIPTION: f"{_OWNER} JOIN subscriptions s USING (application_id) WHERE subscription_id = $1",
    ResourceKind.ENVIRONMENT: "SELECT NULL AS application_id, project_id FROM environments WHERE environment_id = $1",
    ResourceKind.PROJECT: "SELECT NULL AS application_id, project_id FROM projects WHERE project_id = $1",
    ResourceKind.DOMAIN: f"{_OWNER} JOIN domains d USING (application_id) WHERE domain_id = $1",
    ResourceKind.GATE: """
        SELECT g.application_id, coalesce(g.project_id, e.project_id) AS project_id
          FROM gates g
          LEFT JOIN applications a USING (application_id)
          LEFT JOIN environments e ON e.environment_id = coalesce(g.environment_id, a.environment_id)
         WHERE gate_id = $1
    """,
    ResourceKind.APPROVAL: f"{_OWNER} JOIN approvals p USING (application_id) WHERE approval_id = $1",
    ResourceKind.ALERT: f"{_OWNER_OF_ALERT} WHERE alert_id = $1",
    ResourceKind.ALERT_DELIVERY: f"{_OWNER_OF_ALERT} JOIN outbox_deliveries d USING (alert_id) WHERE delivery_id = $1",
    ResourceKind.PORT: f"{_OWNER} WHERE {_has_part('ports', 'portId')}",
    ResourceKind.MOUNT: f"{_OWNER} WHERE {_has_part('mounts', 'mountId')}",
}


_SELECT_MEMBERS: Mapping[ResourceKind, str] = {
    ResourceKind.GROUP: "SELECT application_id FROM group_members WHERE group_id = $1",
    ResourceKind.RELEASE: "SELECT application_id FROM release_members WHERE release_id = $1",
}


async def select_members(connection: Connection, kind: ResourceKind, named: str) -> frozenset[str] | None:
    """Return the applications that a group or a release has; None for another kind, which has one owner."""
    if (select := _SELECT_MEMBERS.get(kind)) is None:
        return None
    return frozenset(row["application_id"] for row in await connection.fetch(select, named))


async def select_owner(connection: Connection, kind: ResourceKind, named: str) -> ResourceOwner | None:
    """Return the owner of a resource, also of a deleted application; None if there is no such resource."""
    row = await connection.fetchrow(_SELECT[kind], named)
    return None if row is None else ResourceOwner(row["application_id"], row["project_id"])


async def select_projects(connection: Connection, grants: Grants) -> frozenset[str]:
    """Return the projects that these grants name, and the projects of the applications that they name."""
    rows = await connection.fetch(
        "SELECT DISTINCT e.project_id FROM applications JOIN environments e USING (environment_id)"
        " WHERE application_id = ANY($1)",
        list(grants.applications),
    )
    return grants.projects | {row["project_id"] for row in rows}


async def select_covered(connection: Connection, grants: Grants) -> frozenset[str]:
    """Return the applications that these grants cover."""
    rows = await connection.fetch(
        f"{_OWNER} WHERE application_id = ANY($1) OR e.project_id = ANY($2)",
        list(grants.applications),
        list(grants.projects),
    )
    return frozenset(row["application_id"] for row in rows)


async def select_volumes_of_others(
    connection: Connection, vault: Vault, volumes: Collection[str], *, application_id: str, app_name: str
) -> frozenset[str]:
    """Return those of the volumes that another application mounts, or has a name that matches them better.

    Raises UndecryptableSecret when no key decrypts what another application was adopted with.
    """
    rows = await connection.fetch(
        """
        SELECT volume
          FROM unnest($1::text[]) AS wanted (volume)
         WHERE EXISTS (
               SELECT FROM applications
                WHERE application_id <> $2
                  AND (EXISTS (SELECT FROM jsonb_array_elements(configuration -> 'mounts') AS mount
                                WHERE mount ->> 'source' = volume AND coalesce(mount ->> 'type', 'volume') = 'volume')
                       OR (length(app_name) > length($3)
                           AND (volume = app_name OR starts_with(volume, app_name || '-'))))
               )
        """,
        list(volumes),
        application_id,
        app_name,
    )
    adopted = await applications.select_adopted_specs(connection, vault, but=application_id)
    return frozenset(row["volume"] for row in rows).union(*(base.volumes.intersection(volumes) for base in adopted))
