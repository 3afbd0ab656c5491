"""Alerts in declarations: what is there, what is wanted, and the calls between."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gateway.admin.alerts import canonical_quiet_hours
from gateway.admin.context import Context
from gateway.admin.declared.references import References
from gateway.model.alerts import EventKind, ReceiverKind
from gateway.model.declared.objects import Kind, located
from gateway.model.declared.secrets import UNCHANGED, Secrets
from gateway.model.declared.states import Secret, State, revealed
from gateway.model.declared.states import given as again
from gateway.model.errors import Conflict, InvalidInput, Unavailable
from gateway.notify.address import USUAL_HOSTS, parse_url
from gateway.store import alerts, declared, projects
from gateway.store.database import Connection

_LOGIN = ("token", "appId", "privateKey")


def _present(fields: Mapping[str, Any]) -> State:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}, (), False)}


def _secret(value: str | None) -> Secret | None:
    return Secret(value) if value else None


async def read_alert(connection: Connection, context: Context, alert_id: str) -> State:
    """Return an alert as flat fields. Raises NotFound, Unavailable."""
    found = await alerts.select_alert(connection, context.vault, alert_id)
    if found.unreadable:
        raise Unavailable(found.unreadable)
    parts = found.address or {}
    application = found.application_id
    names = await declared.select_full_names(connection, [application]) if application else {}
    project = found.project_id and await projects.select_project(
        connection, context.vault, found.project_id, without=("variables",)
    )
    secrets = parts.get("secrets") or [{}]
    fields = {
        "receiver": str(found.receiver),
        "address": _address(found.receiver, parts.get("url")),
        "secret": _secret(secrets[0].get("secret")),
        "token": _secret(parts.get("token")),
        "appId": parts.get("appId"),
        "privateKey": _secret(parts.get("privateKey")),
        "repositories": list(parts.get("repositories") or ()),
        "artifactRecord": bool(parts.get("artifactRecord")),
        "application": names.get(application) if application else None,
        "project": project.name if project else None,
        "events": _events(found.receiver, found.events),
        "quietHours": [dict(one) for one in found.quiet_hours],
        "allowPrivate": found.allow_private,
    }
    return _present(fields) | ({} if found.enabled else {"enabled": False})


def _address(receiver: ReceiverKind, url: str | None) -> Secret | str | None:
    """Return the address: that of a host of source code is no secret, others may have some."""
    return url if receiver.shows_commits else _secret(url)


def _events(receiver: ReceiverKind, events: Any) -> list[str] | None:
    """Return the events; None for those that are usual."""
    chosen = frozenset(EventKind(one) for one in events)
    return None if chosen == receiver.usual_events else sorted(str(one) for one in chosen)


async def want_alert(references: References, form: Any, secrets: Secrets, current: State) -> State:
    """Return what a declaration wants of an alert. Raises InvalidInput naming the field."""
    receiver = ReceiverKind(form.receiver)

    def value(name: str, where: Any) -> Secret | None:
        held = current.get(name)
        found = secrets.value(f"{name}From", where, held.value if isinstance(held, Secret) else None)
        return Secret(found, is_kept=where == UNCHANGED) if found else None

    made = form.secret_from or (UNCHANGED if current.get("secret") else None)
    entered = value("address", form.address_from)
    address = form.address or (entered.value if entered else None)
    if address is not None and receiver is not ReceiverKind.APPRISE:
        url = parse_url(address, allow_private=form.allow_private)
        address = str(url.origin() if receiver.shows_commits else url)
    elif address is None:
        address = USUAL_HOSTS.get(receiver)
    fields = {
        "receiver": str(receiver),
        "address": _address(receiver, address),
        "secret": value("secret", made) if receiver is ReceiverKind.WEBHOOK else None,
        "token": value("token", form.token_from),
        "appId": form.app_id,
        "privateKey": value("privateKey", form.private_key_from),
        "repositories": list(form.repositories),
        "artifactRecord": form.artifact_record,
        "application": None
        if form.application is None
        else await references.full_name(form.application, "application"),
        "project": form.project,
        "events": None if form.events is None else _events(receiver, form.events),
        "quietHours": _quiet_hours(receiver, form.quiet_hours),
        "allowPrivate": form.allow_private,
    }
    return _present(fields) | ({} if form.enabled else {"enabled": False})


def _quiet_hours(receiver: ReceiverKind, given: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    try:
        return canonical_quiet_hours(receiver, given)
    except ValidationError as error:
        found = located(error, {"windows": given})
        raise InvalidInput(str(found), field=(found.field or "windows").replace("windows", "quietHours", 1)) from error


async def creation_of(references: References, name: str, wanted: State) -> dict[str, Any]:
    """Return the input of alert.create."""
    given = {**revealed(wanted), "name": name}
    if "application" in given:
        given["applicationId"] = await references.application(given.pop("application"), "application")
    if "project" in given:
        given["projectId"] = await references.named(Kind.PROJECT, given.pop("project"), "project")
    return given


def change_of(alert_id: str, current: State, wanted: State) -> dict[str, Any]:
    """Return the input of alert.update. Raises Conflict for what an alert keeps."""
    names = {name for name in (*current, *wanted) if current.get(name) != wanted.get(name)}
    if kept := sorted(names & {"receiver", "application", "project"}):
        raise Conflict(f"an alert keeps its {kept[0]}: give it another name, which makes another one")
    given: dict[str, Any] = {"alertId": alert_id}
    if names & {"address", *_LOGIN}:
        # A login is sent along with the address that it is for, but not one that is only kept.
        login = again(wanted, ("token", "privateKey"))
        app = {"appId": wanted["appId"]} if "appId" in wanted and "privateKey" in login else {}
        given |= ({"address": wanted["address"]} if "address" in wanted else {}) | login | app
    if "secret" in names and "secret" in wanted:
        given["secret"] = wanted["secret"]
    if "events" in names:
        usual = ReceiverKind(wanted["receiver"]).usual_events
        given["events"] = wanted.get("events", sorted(str(one) for one in usual))
    defaults: dict[str, Any] = {
        "repositories": [],
        "artifactRecord": False,
        "quietHours": [],
        "allowPrivate": False,
        "enabled": True,
    }
    given |= {name: wanted.get(name, default) for name, default in defaults.items() if name in names}
    return {name: revealed(value) for name, value in given.items()}
