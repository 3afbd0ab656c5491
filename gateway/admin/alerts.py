"""Set alerts, try them out, and deliver again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.gates.window import Rule
from gateway.model.alerts import Alert, EventKind, ReceiverKind, trial_event
from gateway.model.errors import Conflict, Forbidden, InvalidInput
from gateway.notify import address, receivers
from gateway.notify.address import Entered
from gateway.notify.http import open_sender
from gateway.notify.receiver import Delivery, Receipt
from gateway.store import alerts
from gateway.store.database import statement, transaction

if TYPE_CHECKING:
    from gateway.model.api_keys import Grants
    from gateway.store.database import Pool
    from gateway.store.encryption import Vault

_ADVICE = "Use an unrestricted admin key"


def _check_rights(kind: ReceiverKind, *, allow_private: bool, grants: "Grants | None") -> None:
    """Raises Forbidden where a restricted key would have the gateway send into networks that only it reaches."""
    if grants is None:
        return
    if kind is ReceiverKind.APPRISE:
        raise Forbidden(f"an Apprise address may lead anywhere, and a restricted key may not set one. {_ADVICE}.")
    if allow_private:
        raise Forbidden(f"allowPrivate lets the gateway send into private networks. {_ADVICE}.")


def canonical_quiet_hours(kind: ReceiverKind, given: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the windows as they are stored. Raises pydantic's ValidationError, and InvalidInput for a commit."""
    if not given:
        return []
    if kind.shows_commits:
        raise InvalidInput("what a commit shows has no quiet hours", field="quietHours")
    rule = Rule.model_validate({"mode": "freeze", "windows": list(given)})
    return [one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in rule.windows]


async def create(
    pool: "Pool",
    vault: "Vault",
    *,
    name: str,
    application_id: str | None,
    project_id: str | None,
    receiver: ReceiverKind,
    entered: Entered,
    events: Sequence[EventKind] | None,
    quiet_hours: Sequence[Mapping[str, Any]],
    allow_private: bool,
    enabled: bool,
    grants: "Grants | None",
) -> tuple[Alert, str | None]:
    """Set an alert; return it, and the secret that was made for it. Raises NotFound, Forbidden, and InvalidInput."""
    if application_id is not None and project_id is not None:
        raise InvalidInput("name an application or a project, or neither for all", field="projectId")
    _check_rights(receiver, allow_private=allow_private, grants=grants)
    windows = canonical_quiet_hours(receiver, quiet_hours)
    read = await address.read(receiver, entered, allow_private=allow_private)
    async with transaction(pool) as connection:
        made = await alerts.insert_alert(
            connection,
            vault,
            name=name,
            application_id=application_id,
            project_id=project_id,
            receiver=receiver,
            target=read.target,
            address=read.parts,
            events=_chosen(receiver, events),
            quiet_hours=windows,
            allow_private=allow_private,
            enabled=enabled,
        )
    return made, read.made


def _chosen(receiver: ReceiverKind, events: Sequence[EventKind] | None) -> list[EventKind]:
    chosen = receiver.usual_events if events is None else frozenset(events)
    if not chosen:
        raise InvalidInput("choose at least one event", field="events")
    return sorted(chosen)


async def update(
    pool: "Pool",
    vault: "Vault",
    alert_id: str,
    *,
    name: str | None,
    entered: Entered,
    events: Sequence[EventKind] | None,
    quiet_hours: Sequence[Mapping[str, Any]] | None,
    allow_private: bool | None,
    enabled: bool | None,
    grants: "Grants | None",
) -> tuple[Alert, str | None]:
    """Change what is given; return the alert, and the secret that was made for it. Raises as `create` does."""
    async with statement(pool) as connection:
        before = await alerts.select_alert(connection, vault, alert_id)
    _refuse_setting(before)
    private = before.allow_private if allow_private is None else allow_private
    # A restricted key that changes where an alert goes needs the rights as for a new one.
    if not entered.is_empty or (private and not before.allow_private):
        _check_rights(before.receiver, allow_private=private, grants=grants)
    if grants is not None and before.receiver.shows_commits and not entered.is_empty and not entered.has_login:
        raise Forbidden(f"to change where a token is used, send it again; it may be somebody else's. {_ADVICE}.")
    windows = list(before.quiet_hours) if quiet_hours is None else canonical_quiet_hours(before.receiver, quiet_hours)
    readdressed = not entered.is_empty or private != before.allow_private
    read = (
        await address.read(before.receiver, entered, allow_private=private, before=before.address)
        if readdressed
        else None
    )
    async with transaction(pool) as connection:
        current = await alerts.lock_alert(connection, vault, alert_id)
        if read is not None and current.address != before.address:
            raise Conflict("the alert was changed at the same time: look at it, and change it again")
        changed = replace(
            current,
            name=current.name if name is None else name,
            target=current.target if read is None else read.target,
            address=None if read is None else read.parts,
            events=current.events if events is None else tuple(_chosen(current.receiver, events)),
            quiet_hours=tuple(windows),
            allow_private=private,
            enabled=current.enabled if enabled is None else enabled,
        )
        stored = await alerts.update_alert(connection, vault, changed, resets=read is not None or enabled is True)
    return stored, None if read is None else read.made


async def remove(pool: "Pool", vault: "Vault", alert_id: str) -> Alert:
    """Delete an alert, with what waits for its receiver, and return it as it was. Raises NotFound."""
    async with transaction(pool) as connection:
        found = await alerts.lock_alert(connection, vault, alert_id)
        _refuse_setting(found)
        await alerts.delete_alert(connection, alert_id)
    return found


def _refuse_setting(alert: Alert) -> None:
    if alert.set_at is not None:
        raise Conflict("GATEWAY_ALERT_URLS sets this alert: change the setting, and start the gateway again")


async def try_out(pool: "Pool", vault: "Vault", alert_id: str) -> Receipt:
    """Tell the receiver of a test. Raises NotFound, and Undelivered."""
    async with statement(pool) as connection:
        alert = await alerts.select_alert(connection, vault, alert_id)
    if alert.set_at is not None:
        raise Conflict("GATEWAY_ALERT_URLS sets this alert, and its address is not stored")
    delivery = Delivery(alert, trial_event(alert.name, datetime.now(UTC)))
    async with open_sender() as sender:
        return await receivers.try_out(sender, delivery)
