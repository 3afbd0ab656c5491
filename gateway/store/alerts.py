"""Alerts as they are set. The address of a receiver and its secrets are stored encrypted, in one column."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from gateway.model.alerts import Alert, EventKind, ReceiverKind
from gateway.model.errors import InvalidInput, NotFound
from gateway.store import undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.pagination import FIRST, Page
from gateway.store.undecryptable import Row

#: alerts that there may be
MOST = 500
#: one of the settings that no gateway has had for so long is deleted
_SETTING_KEPT = timedelta(days=1)

_NOT_FOUND = "Alert not found"
_COLUMNS = """
    alert_id, name, application_id, project_id, receiver, target, address, events, quiet_hours, allow_private, enabled,
    created_at, set_at, failures, paused_until, last_error, delivered_at
"""
_WAITING = (
    "(SELECT count(*) FROM (SELECT FROM outbox_deliveries d WHERE d.alert_id = alerts.alert_id"
    " AND d.state = 'waiting' LIMIT 10000) AS waiting) AS waiting"
)


def _place(alert_id: str) -> str:
    return f"alerts:{alert_id}:address"


def _from_row(row: Row, vault: Vault) -> Alert:
    values = dict(row)
    encrypted = values.pop("address")
    values["receiver"] = ReceiverKind(values["receiver"])
    # A newer gateway may know more kinds.
    values["events"] = tuple(EventKind(one) for one in values["events"] if one in set(EventKind))
    values["quiet_hours"] = tuple(values["quiet_hours"])
    if encrypted is not None:
        values["address"] = orjson.loads(vault.decrypt(encrypted, _place(values["alert_id"])))
    return Alert(**values)


def read(rows: Sequence[Row], vault: Vault) -> list[Alert]:
    """Return the alerts; one whose address no key decrypts has the error instead."""
    found = undecryptable.read_all(rows, lambda row: _from_row(row, vault), ["address"])
    return [alert if why is None else replace(alert, unreadable=why) for alert, why in found]


async def insert_alert(
    connection: Connection,
    vault: Vault,
    *,
    name: str,
    application_id: str | None,
    project_id: str | None,
    receiver: ReceiverKind,
    target: str,
    address: Mapping[str, Any],
    events: Sequence[EventKind],
    quiet_hours: Sequence[Mapping[str, Any]],
    allow_private: bool,
    enabled: bool,
) -> Alert:
    """Return the new alert. Raises NotFound without its application or project, and InvalidInput for one too many."""
    await connection.execute("LOCK TABLE alerts IN SHARE ROW EXCLUSIVE MODE")
    if await connection.fetchval("SELECT count(*) FROM alerts") >= MOST:
        raise InvalidInput(f"there are {MOST} alerts already; remove one: gateway alerts remove")
    await _require_owner(connection, application_id, project_id)
    alert_id = str(await connection.fetchval("SELECT gen_random_uuid()::text"))
    row = await connection.fetchrow(
        f"""
        INSERT INTO alerts (alert_id, name, application_id, project_id, receiver, target, address, events, quiet_hours,
                            allow_private, enabled)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        RETURNING {_COLUMNS}
        """,  # noqa: S608 - a constant
        alert_id,
        name,
        application_id,
        project_id,
        receiver,
        target,
        _encrypt(vault, alert_id, address),
        list(events),
        list(quiet_hours),
        allow_private,
        enabled,
    )
    return read([row] if row else [], vault)[0]


async def _require_owner(connection: Connection, application_id: str | None, project_id: str | None) -> None:
    if application_id is not None and not await connection.fetchval(
        "SELECT true FROM applications WHERE application_id = $1 AND desired <> 'deleted' FOR KEY SHARE", application_id
    ):
        raise NotFound("Application not found")
    if project_id is not None and not await connection.fetchval(
        "SELECT true FROM projects WHERE project_id = $1 FOR KEY SHARE", project_id
    ):
        raise NotFound("Project not found")


def _encrypt(vault: Vault, alert_id: str, address: Mapping[str, Any]) -> bytes:
    return vault.encrypt(orjson.dumps(address).decode(), _place(alert_id))


async def lock_alert(connection: Connection, vault: Vault, alert_id: str) -> Alert:
    """Return an alert and lock its row. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM alerts WHERE alert_id = $1 FOR NO KEY UPDATE",  # noqa: S608 - a constant
        alert_id,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return read([row], vault)[0]


async def update_alert(connection: Connection, vault: Vault, changed: Alert, *, resets: bool) -> Alert:
    """Store a changed alert. `resets`: the receiver is another one, so its failures and pause are cleared."""
    row = await connection.fetchrow(
        f"""
        UPDATE alerts
           SET name = $2, target = $3, address = coalesce($4, address), events = $5, quiet_hours = $6,
               allow_private = $7, enabled = $8,
               failures = CASE WHEN $9 THEN 0 ELSE failures END,
               paused_until = CASE WHEN $9 THEN NULL ELSE paused_until END,
               last_error = CASE WHEN $9 THEN NULL ELSE last_error END
         WHERE alert_id = $1
        RETURNING {_COLUMNS}
        """,  # noqa: S608 - a constant
        changed.alert_id,
        changed.name,
        changed.target,
        None if changed.address is None else _encrypt(vault, changed.alert_id, changed.address),
        list(changed.events),
        list(changed.quiet_hours),
        changed.allow_private,
        changed.enabled,
        resets,
    )
    return read([row] if row else [], vault)[0]


async def delete_alert(connection: Connection, alert_id: str) -> None:
    """Delete an alert, with its deliveries."""
    await connection.execute("DELETE FROM alerts WHERE alert_id = $1", alert_id)


async def select_alert(connection: Connection, vault: Vault, alert_id: str) -> Alert:
    """Return an alert, with the number of deliveries that wait. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, {_WAITING} FROM alerts WHERE alert_id = $1",  # noqa: S608 - constants
        alert_id,
    )
    if row is None:
        raise NotFound(_NOT_FOUND)
    return read([row], vault)[0]


async def select_alerts(connection: Connection, vault: Vault, page: Page = FIRST) -> list[Alert]:
    """Return a page of the alerts."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}, {_WAITING}
          FROM alerts
         WHERE (created_at, alert_id) < ($1, $2)
         ORDER BY created_at DESC, alert_id DESC
         LIMIT $3
        """,  # noqa: S608 - constants
        *page.bounds,
    )
    return read(rows, vault)


async def select_alerts_of(
    connection: Connection,
    vault: Vault,
    page: Page,
    *,
    application_ids: Sequence[str],
    project_ids: Sequence[str],
) -> list[Alert]:
    """Return a page of the alerts that are set on these applications and projects."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}, {_WAITING}
          FROM alerts
         WHERE (created_at, alert_id) < ($1, $2) AND (application_id = ANY($4) OR project_id = ANY($5))
         ORDER BY created_at DESC, alert_id DESC
         LIMIT $3
        """,  # noqa: S608 - constants
        *page.bounds,
        list(application_ids),
        list(project_ids),
    )
    return read(rows, vault)


# -- those of a setting


async def upsert_settings(connection: Connection, names: Mapping[str, str], events: Sequence[EventKind]) -> None:
    """Record the receivers that a setting names, by id. Their addresses stay in the setting."""
    await connection.execute(
        """
        INSERT INTO alerts (alert_id, name, receiver, target, events, set_at)
        SELECT one.alert_id, one.name, 'apprise', 'GATEWAY_ALERT_URLS', $3, now()
          FROM unnest($1::text[], $2::text[]) AS one (alert_id, name)
         ORDER BY one.alert_id
            ON CONFLICT (alert_id) DO UPDATE SET set_at = now(), events = excluded.events, name = excluded.name
        """,
        list(names),
        list(names.values()),
        list(events),
    )


async def delete_unset(connection: Connection) -> None:
    """Delete the receivers that no gateway has in its settings any more."""
    await connection.execute("DELETE FROM alerts WHERE set_at < now() - $1::interval", _SETTING_KEPT)
