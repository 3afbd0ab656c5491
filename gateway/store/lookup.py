"""Find what a person means: by its id, by a name, or by the beginning of its id."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.store.database import Connection

LEAST_PREFIX = 4  # characters: fewer are taken for a mistyped name


class Noun(StrEnum):
    """What can be looked up."""

    ALERT = "alert"
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
    """Where a noun is stored. Of `names`, an earlier column decides before a later one; `shown` is the name to show."""

    table: str
    id: str
    names: tuple[str, ...] = ()
    only: str = "true"
    time: str = "created_at"

    @property
    def shown(self) -> str:
        return "name" if "name" in self.names else self.names[0] if self.names else "NULL"


_TABLES: Mapping[Noun, _Table] = {
    Noun.ALERT: _Table("alerts", "alert_id", ("name",)),
    Noun.APPLICATION: _Table("applications", "application_id", ("app_name", "name"), "desired <> 'deleted'"),
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


async def select_meant(connection: Connection, noun: Noun, word: str, most: int) -> list[Found]:
    """Return what the word means: what has this id, else this name, else the ids that begin with it."""
    of = _TABLES[noun]
    matches = [f"{column} = $1" for column in (of.id, *of.names)]
    if len(word) >= LEAST_PREFIX:
        matches.append(f"{of.id} ^@ $1")
    ranks = " ".join(f"WHEN {match} THEN {number}" for number, match in enumerate(matches))
    rows = await connection.fetch(
        f"""
        WITH found AS (SELECT {of.id} AS id, {of.shown} AS name,
                              CASE {ranks} END AS rank
                         FROM {of.table}
                        WHERE ({" OR ".join(matches)}) AND {of.only}
                        LIMIT 10000)
        SELECT id, name FROM found WHERE rank = (SELECT min(rank) FROM found) ORDER BY name, id LIMIT $2
        """,  # noqa: S608 - constants
        word,
        most,
    )
    return [Found(row["id"], row["name"]) for row in rows]


async def select_beginning(connection: Connection, noun: Noun, start: str, most: int) -> list[Found]:
    """Return what has a name, or else an id, that begins so; the newest of what has no name."""
    of = _TABLES[noun]
    columns = (*of.names, of.id)
    order = "name, id" if of.names else f"{of.time} DESC"
    rows = await connection.fetch(
        f"""
        SELECT {of.id} AS id, {of.shown} AS name
          FROM {of.table}
         WHERE ({" OR ".join(f"{column} ^@ $1" for column in columns)}) AND {of.only}
         ORDER BY {order}
         LIMIT $2
        """,  # noqa: S608 - constants
        start,
        most,
    )
    return [Found(row["id"], row["name"]) for row in rows]
