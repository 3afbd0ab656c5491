"""Find what a person means: by its id, by a name, or by the beginning of its id."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.model.api_keys import Grants
from gateway.model.ids import LEAST_PREFIX
from gateway.store.database import Connection


class Noun(StrEnum):
    """What can be looked up."""

    ALERT = "alert"
    ALERT_DELIVERY = "alert-delivery"
    APPLICATION = "application"
    APPROVAL = "approval"
    DELIVERY = "delivery"
    DEPLOYMENT = "deployment"
    ENVIRONMENT = "environment"
    GATE = "gate"
    GROUP = "group"
    KEY = "key"
    PROJECT = "project"
    REGISTRY = "registry"
    RELEASE = "release"
    SERVER = "server"
    SUBSCRIPTION = "subscription"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class Found:
    """An object with its id, and its name if it has one."""

    id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class _Table:
    """Where a noun is stored. Of `names`, an earlier column decides before a later one; `shown` is the name to show.

    `full` is an expression for the full name with slashes, which is unique.
    """

    table: str
    id: str
    names: tuple[str, ...] = ()
    only: str = "true"
    time: str = "created_at"
    full: str | None = None

    @property
    def shown(self) -> str:
        return "name" if "name" in self.names else self.names[0] if self.names else "NULL"


#: of an application: PROJECT/ENVIRONMENT/NAME
_FULL_NAME = """(
    SELECT concat_ws('/', p.name, e.name, applications.name)
      FROM environments e
      JOIN projects p USING (project_id)
     WHERE e.environment_id = applications.environment_id
)"""

_TABLES: Mapping[Noun, _Table] = {
    Noun.ALERT: _Table("alerts", "alert_id", ("name",)),
    Noun.ALERT_DELIVERY: _Table("outbox_deliveries", "delivery_id", time="queued_at"),
    Noun.APPLICATION: _Table(
        "applications", "application_id", ("app_name", "name"), "desired <> 'deleted'", full=_FULL_NAME
    ),
    Noun.APPROVAL: _Table("approvals", "approval_id"),
    Noun.DELIVERY: _Table("deliveries", "delivery_id", time="received_at"),
    Noun.DEPLOYMENT: _Table("deployments", "deployment_id"),
    Noun.ENVIRONMENT: _Table("environments", "environment_id", ("name",)),
    Noun.GATE: _Table("gates", "gate_id", ("name",)),
    Noun.GROUP: _Table("groups", "group_id", ("name",)),
    Noun.KEY: _Table("api_keys", "key_id", ("name", "prefix")),
    Noun.PROJECT: _Table("projects", "project_id", ("name",)),
    Noun.REGISTRY: _Table("registries", "registry_id", ("registry_name",)),
    Noun.RELEASE: _Table("releases", "release_id"),
    Noun.SERVER: _Table("servers", "server_id", ("name",)),
    Noun.SUBSCRIPTION: _Table("subscriptions", "subscription_id"),
    Noun.WEBHOOK: _Table("endpoints", "endpoint_id", ("name",)),
}

_COVERED = """
    SELECT application_id FROM applications LEFT JOIN environments e USING (environment_id)
     WHERE application_id = ANY($3) OR e.project_id = ANY($4)
"""
_OF_APPLICATION = f"application_id IN ({_COVERED})"
_ALERTS = f"({_OF_APPLICATION} OR project_id = ANY($4))"


def _of_members(table: str, key: str) -> str:
    members = f"SELECT application_id FROM {table} m WHERE m.{key} = {table.removesuffix('_members')}s.{key}"  # noqa: S608
    return f"EXISTS ({members}) AND NOT EXISTS ({members} AND application_id NOT IN ({_COVERED}))"


#: what belongs to applications or projects, and which of it is those applications' ($3) and projects' ($4)
_OWN: Mapping[Noun, str] = {
    Noun.ALERT: _ALERTS,
    Noun.ALERT_DELIVERY: f"alert_id IN (SELECT alert_id FROM alerts WHERE {_ALERTS})",  # noqa: S608 - constants
    Noun.APPLICATION: _OF_APPLICATION,
    Noun.APPROVAL: _OF_APPLICATION,
    Noun.DEPLOYMENT: _OF_APPLICATION,
    Noun.ENVIRONMENT: "project_id = ANY($4)",
    Noun.GATE: f"""
        ({_OF_APPLICATION} OR project_id = ANY($4)
         OR environment_id IN (SELECT environment_id FROM environments WHERE project_id = ANY($4)))
    """,  # noqa: S608 - constants
    Noun.GROUP: _of_members("group_members", "group_id"),
    Noun.PROJECT: "project_id = ANY($4)",
    Noun.RELEASE: _of_members("release_members", "release_id"),
    Noun.SUBSCRIPTION: _OF_APPLICATION,
}
OWNED = frozenset(_OWN)


def _limited(noun: Noun, grants: Grants | None) -> tuple[str, list[list[str]]]:
    """Return the condition for what these grants cover, and its arguments. Requires that the noun is one of OWNED."""
    if grants is None:
        return "true", []
    # Not all conditions use $3, and PostgreSQL must know its type.
    return f"$3::text[] IS NOT NULL AND {_OWN[noun]}", [list(grants.applications), list(grants.projects)]


async def select_meant(
    connection: Connection, noun: Noun, word: str, most: int, grants: Grants | None = None
) -> list[Found]:
    """Return the objects with this id, else with this name, else with this full name, else whose id begins with it.

    With grants, objects that these do not cover are treated as if they did not exist.
    """
    of, (own, covered) = _TABLES[noun], _limited(noun, grants)
    matches = [f"{column} = $1" for column in (of.id, *of.names)]
    if of.full is not None and "/" in word:
        matches.append(f"{of.full} = $1")
    if len(word) >= LEAST_PREFIX:
        matches.append(f"{of.id} ^@ $1")
    ranks = " ".join(f"WHEN {match} THEN {number}" for number, match in enumerate(matches))
    rows = await connection.fetch(
        f"""
        WITH found AS (SELECT {of.id} AS id, {of.shown} AS name,
                              CASE {ranks} END AS rank
                         FROM {of.table}
                        WHERE ({" OR ".join(matches)}) AND {of.only} AND {own}
                        ORDER BY rank
                        LIMIT 10000)
        SELECT id, name FROM found WHERE rank = (SELECT min(rank) FROM found) ORDER BY name, id LIMIT $2
        """,  # noqa: S608 - constants
        word,
        most,
        *covered,
    )
    return [Found(row["id"], row["name"]) for row in rows]


async def select_beginning(
    connection: Connection, noun: Noun, start: str, most: int, grants: Grants | None = None
) -> list[Found]:
    """Return objects with a name or an id that begins with `start`.

    They are ordered by name, regardless of case; without names, the newest come first. With grants, returns only what
    these cover.
    """
    of, (own, covered) = _TABLES[noun], _limited(noun, grants)
    columns = (*of.names, of.id)
    # As the index of applications has them, so that the first ones are found without the others.
    order = f"lower({of.shown}), {of.id}" if of.names else f"{of.time} DESC"
    rows = await connection.fetch(
        f"""
        SELECT {of.id} AS id, {of.shown} AS name
          FROM {of.table}
         WHERE ({" OR ".join(f"{column} ^@ $1" for column in columns)}) AND {of.only} AND {own}
         ORDER BY {order}
         LIMIT $2
        """,  # noqa: S608 - constants
        start,
        most,
        *covered,
    )
    return [Found(row["id"], row["name"]) for row in rows]
