"""alert.*: who gets messages about applications, about what, and what was delivered."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from gateway.admin import alerts as admin
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.procedures._pagination import ShortPaged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.gates.window import Window
from gateway.model.alerts import Alert, EventKind, ReceiverKind
from gateway.model.errors import Conflict, InvalidInput
from gateway.notify.address import Entered
from gateway.notify.receiver import Undelivered
from gateway.store import alerts, outbox_deliveries, resource_owners
from gateway.store.database import statement, transaction
from gateway.store.outbox_deliveries import LoggedDelivery

procedures = Procedures()

_Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
_Secret = Annotated[str, Field(max_length=20_000)]
_EventName = Literal[
    "started",
    "waiting",
    "succeeded",
    "first",
    "recovered",
    "unchanged",
    "failed",
    "rolled_back",
    "cancelled",
    "trouble",
    "missing",
    "drifted",
    "stopped",
    "unhealthy",
    "restarting",
]
_ReceiverName = Literal["apprise", "webhook", "github", "gitlab", "gitea"]
_Events = Annotated[
    list[_EventName] | None,
    Field(max_length=20, description="The events to send. Default: by the receiver; see docs/alerts.md."),
]
_QuietHours = Annotated[
    list[Window],
    Field(max_length=20, description="When nothing is sent, as the windows of a gate; it is sent after that."),
]
_Address = Annotated[
    _Secret | None,
    Field(
        description="An address of Apprise, the URL of a webhook, the host of source code (default: "
        "https://github.com or https://gitlab.com). It is stored encrypted and never returned."
    ),
]
_SigningSecret = Annotated[
    _Secret | None,
    Field(description="Of a webhook: what its requests are signed with, `whsec_…`. Default: a new one is made."),
]
_AllowPrivate = Annotated[
    bool, Field(description="The address may be in a private network, or without TLS. Needs an unrestricted key.")
]
_LONGEST_OVERLAP = 30 * 86_400


class _Addressed(Input):
    address: _Address = None
    secret: _SigningSecret = None
    token: Annotated[_Secret | None, Field(description="Of a host of source code. It is sent to that host alone.")] = (
        None
    )
    app_id: Annotated[str | None, Field(max_length=100, description="Of a GitHub App, in place of a token.")] = None
    private_key: Annotated[_Secret | None, Field(description="Of the GitHub App, in PEM.")] = None
    repositories: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=300)]] | None,
        Field(
            max_length=100,
            description="Whose commits get a status, such as `acme/*`. Default: all that the token reaches.",
        ),
    ] = None
    artifact_record: Annotated[
        bool | None, Field(description="Record where images run with the organization on GitHub, too.")
    ] = None

    @property
    def entered(self) -> Entered:
        return Entered(
            address=self.address,
            secret=self.secret,
            token=self.token,
            app_id=self.app_id,
            private_key=self.private_key,
            repositories=None if self.repositories is None else tuple(self.repositories),
            artifact_record=self.artifact_record,
        )


class Create(_Addressed):
    name: _Name
    receiver: _ReceiverName
    application_id: Annotated[Id | None, Field(description="Only of this application.")] = None
    project_id: Annotated[Id | None, Field(description="Only of the applications of this project.")] = None
    events: _Events = None
    quiet_hours: _QuietHours = Field(default_factory=list)
    allow_private: _AllowPrivate = False
    enabled: bool = True


class Named(Input):
    alert_id: Id


class Update(_Addressed, Named):
    name: _Name | None = None
    events: _Events = None
    quiet_hours: Annotated[
        list[Window] | None, Field(max_length=20, description="Replaces all of them; an empty list: none.")
    ] = None
    allow_private: bool | None = None
    enabled: bool | None = None
    rotate_secret: Annotated[bool, Field(description="Replace the signing secret by a new one, which is returned.")] = (
        False
    )
    overlap: Annotated[
        float,
        Field(ge=0, le=_LONGEST_OVERLAP, description="Seconds for which requests are signed with the old one too."),
    ] = 86_400

    @property
    def entered(self) -> Entered:
        return replace(super().entered, rotate=self.rotate_secret, overlap=timedelta(seconds=self.overlap))


class All(ShortPaged):
    application_id: Id | None = None
    project_id: Id | None = None


class Deliveries(ShortPaged):
    alert_id: Id | None = None
    application_id: Id | None = None
    state: Literal["waiting", "delivered", "failed"] | None = None


class Replay(Input):
    alert_delivery_id: Annotated[Id | None, Field(description="One delivery.")] = None
    alert_id: Annotated[Id | None, Field(description="All deliveries of this alert that were given up.")] = None


class AlertRow(Response):
    """An alert, without its address."""

    alert_id: str
    name: str
    receiver: str
    target: Annotated[str, Field(description="What may be shown of the address.")]
    application_id: str | None
    project_id: str | None
    events: list[str]
    quiet_hours: list[dict[str, Any]]
    allow_private: bool
    repositories: Annotated[
        list[str], Field(description="Whose commits get a status; empty: all that the token reaches.")
    ]
    artifact_record: bool
    enabled: bool
    from_setting: Annotated[bool, Field(description="GATEWAY_ALERT_URLS sets it.")]
    created_at: Moment
    waiting: Annotated[int, Field(description="Deliveries that wait; 10000 stands for that and more.")]
    failures: Annotated[int, Field(description="How often in a row its receiver was not reached.")]
    paused_until: Annotated[Moment | None, Field(description="Nothing is sent until then.")]
    last_error: Annotated[str | None, Field(description="Null: its receiver took the last one.")]
    delivered_at: Moment | None

    @classmethod
    def from_alert(cls, alert: Alert, **more: Any) -> Self:
        return cls.make(
            alert,
            receiver=alert.receiver.value,
            events=[one.value for one in alert.events],
            quiet_hours=[dict(one) for one in alert.quiet_hours],
            from_setting=alert.set_at is not None,
            repositories=list((alert.address or {}).get("repositories", [])),
            artifact_record=bool((alert.address or {}).get("artifactRecord")),
            last_error=alert.unreadable or alert.last_error,
            **more,
        )


class CreatedAlert(AlertRow):
    """An alert, and the secret that was made for it."""

    secret: Annotated[str | None, Field(description="Shown once: what its requests are signed with.")] = None


class Tried(Response):
    """How a test went."""

    delivered: bool
    status_code: Annotated[int | None, Field(description="Of the receiver's answer, if it was an answer of HTTP.")]
    error: str | None


class AlertDeliveryRow(Response):
    """One event for one receiver."""

    alert_delivery_id: str
    alert_id: str
    alert_name: str
    event_id: Annotated[str, Field(description="The same in each attempt: `webhook-id` of a webhook.")]
    type: str
    kinds: list[str]
    title: str
    application_id: str
    application_name: str
    deployment_id: str | None
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    next_attempt_at: Annotated[Moment | None, Field(description="Null: there is no next one.")]
    status_code: int | None
    error: Annotated[str | None, Field(description="Of the last attempt.")]
    queued_at: Moment
    finished_at: Moment | None

    @classmethod
    def from_delivery(cls, one: LoggedDelivery) -> Self:
        return cls.make(
            one,
            alert_delivery_id=one.delivery_id,
            event_id=one.event.event_id,
            type=one.event.type,
            kinds=[kind.value for kind in one.event.kinds],
            title=one.event.title(),
            application_name=one.event.application_name,
            deployment_id=one.event.deployment_id,
            next_attempt_at=one.next_attempt_at if one.state == "waiting" else None,
        )


class Replayed(Response):
    """How many deliveries are delivered again."""

    count: int


@procedures.mutation("alert.create", gives=CreatedAlert, authorized_by=frozenset({"application_id", "project_id"}))
async def create(context: Context, given: Create) -> Answer:
    """Set an alert: who gets which events of an application, a project or all applications.

    A webhook gets a signing secret where none is given. A restricted key needs applicationId or projectId, and sets
    webhooks at public addresses only.
    """
    made, secret = await admin.create(
        context.pool,
        context.vault,
        name=given.name,
        application_id=given.application_id,
        project_id=given.project_id,
        receiver=ReceiverKind(given.receiver),
        entered=given.entered,
        events=_kinds(given.events),
        quiet_hours=_windows(given.quiet_hours),
        allow_private=given.allow_private,
        enabled=given.enabled,
        grants=context.caller.grants,
    )
    return Answer(CreatedAlert.from_alert(made, secret=secret))


def _kinds(names: Sequence[str] | None) -> list[EventKind] | None:
    return None if names is None else [EventKind(one) for one in names]


def _windows(windows: Sequence[Window]) -> list[dict[str, Any]]:
    return [one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in windows]


@procedures.query("alert.all", gives=list[AlertRow], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: All) -> Answer:
    """List alerts, newest first.

    With applicationId or projectId, those that are set there.
    """
    grants, page = context.caller.grants, given.page
    async with statement(context.pool) as connection:
        if grants is None and given.application_id is None and given.project_id is None:
            found = await alerts.select_alerts(connection, context.vault, page)
        else:
            named = given.application_id is not None or given.project_id is not None
            covered = [] if named or grants is None else await resource_owners.select_covered(connection, grants)
            projects = [] if named or grants is None else grants.projects
            found = await alerts.select_alerts_of(
                connection,
                context.vault,
                page,
                application_ids=[given.application_id] if given.application_id is not None else list(covered),
                project_ids=[given.project_id] if given.project_id is not None else list(projects),
            )
    return paged(found, page, lambda one: (one.created_at, one.alert_id), AlertRow.from_alert)


@procedures.query("alert.one", gives=AlertRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return an alert, and how its receiver does."""
    async with statement(context.pool) as connection:
        return Answer(AlertRow.from_alert(await alerts.select_alert(connection, context.vault, given.alert_id)))


@procedures.mutation("alert.update", gives=CreatedAlert, raises=(Conflict,))
async def update(context: Context, given: Update) -> Answer:
    """Update an alert, and return it.

    Absent fields stay unchanged. To turn it on again also tries its receiver again at once.
    """
    changed, secret = await admin.update(
        context.pool,
        context.vault,
        given.alert_id,
        name=given.name,
        entered=given.entered,
        events=_kinds(given.events),
        quiet_hours=None if given.quiet_hours is None else _windows(given.quiet_hours),
        allow_private=given.allow_private,
        enabled=given.enabled,
        grants=context.caller.grants,
    )
    return Answer(CreatedAlert.from_alert(changed, secret=secret))


@procedures.mutation("alert.remove", gives=AlertRow, raises=(Conflict,))
async def remove(context: Context, given: Named) -> Answer:
    """Remove an alert with what waits for its receiver, and return it as it was."""
    return Answer(AlertRow.from_alert(await admin.remove(context.pool, context.vault, given.alert_id)))


@procedures.mutation("alert.test", gives=Tried, raises=(Conflict,))
async def test(context: Context, given: Named) -> Answer:
    """Test an alert.

    The gateway sends its receiver an event of the type `alert.test`, once. The answer says whether that worked.
    """
    try:
        receipt = await admin.try_out(context.pool, context.vault, given.alert_id)
    except Undelivered as error:
        return Answer(Tried.make(delivered=False, status_code=error.status, error=str(error)))
    return Answer(Tried.make(delivered=True, status_code=receipt.status, error=None))


@procedures.query("alert.deliveries", gives=list[AlertDeliveryRow], access=KeyAccess.FILTERED)
async def select_deliveries(context: Context, given: Deliveries) -> Answer:
    """List the deliveries of alerts, also those that wait, newest first.

    A restricted key gets only what is of its own alerts.
    """
    grants, page = context.caller.grants, given.page
    async with statement(context.pool) as connection:
        applications = None if given.application_id is None else [given.application_id]
        covered = frozenset[str]() if grants is None else await resource_owners.select_covered(connection, grants)
        if grants is not None and applications is None:
            applications = list(covered)
        found = await outbox_deliveries.select_deliveries(
            connection,
            page,
            alert_ids=None if given.alert_id is None else [given.alert_id],
            application_ids=applications,
            state=given.state,
            # Other receivers, and why a delivery to them fails, are not for a key that does not see their alert.
            set_on=None if grants is None else (covered, grants.projects),
        )
    return paged(found, page, lambda one: (one.queued_at, one.delivery_id), AlertDeliveryRow.from_delivery)


@procedures.mutation("alert.replay", gives=Replayed, authorized_by=frozenset({"alert_id", "alert_delivery_id"}))
async def replay(context: Context, given: Replay) -> Answer:
    """Replay one delivery, or all of an alert that were given up.

    Those that wait stay as they are.
    """
    if (given.alert_id is None) == (given.alert_delivery_id is None):
        raise InvalidInput("name one of alertDeliveryId and alertId", field="alertDeliveryId")
    async with transaction(context.pool) as connection:
        if given.alert_delivery_id is not None:
            count = await outbox_deliveries.replay_delivery(connection, given.alert_delivery_id)
        else:
            await alerts.lock_alert(connection, context.vault, given.alert_id or "")
            count = await outbox_deliveries.replay_failed(connection, given.alert_id or "")
    return Answer(Replayed.make(count=count))
