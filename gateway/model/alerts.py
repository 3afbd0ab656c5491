"""Alerts: which events the gateway sends, to whom, and in which words. It performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from gateway.model.deployments import Deployment, Kind, Outcome, Status
from gateway.model.errors import Reason
from gateway.model.sanitize import safe_line

_LONGEST = 2000  # characters of a message


class EventKind(StrEnum):
    """What happened. An event may be of several kinds: a deployment that succeeds may be the first one."""

    #: a rollout has resolved its image, and goes on
    STARTED = "started"
    #: a deployment waits at a gate for a person
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    #: the first deployment of an application that succeeds
    FIRST = "first"
    #: a deployment succeeds after one that did not, or an application is well again
    RECOVERED = "recovered"
    #: the wanted version ran already
    UNCHANGED = "unchanged"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    #: in the monitor window
    TROUBLE = "trouble"
    # -- the observed state of an application is not the expected one
    MISSING = "missing"
    DRIFTED = "drifted"
    STOPPED = "stopped"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    #: an alert is tried out
    TEST = "test"


STATES = frozenset({EventKind.MISSING, EventKind.DRIFTED, EventKind.STOPPED, EventKind.UNHEALTHY, EventKind.RESTARTING})
#: what may be chosen
CHOICES = tuple(one for one in EventKind if one is not EventKind.TEST)
#: the events that people get, unless they choose
FOR_PEOPLE = frozenset(
    {
        EventKind.WAITING,
        EventKind.RECOVERED,
        EventKind.FAILED,
        EventKind.ROLLED_BACK,
        EventKind.TROUBLE,
        *STATES,
    }
)
#: the events that a program gets, unless it chooses
FOR_PROGRAMS = frozenset(CHOICES)
#: what a commit shows
FOR_COMMITS = frozenset(
    {
        EventKind.STARTED,
        EventKind.WAITING,
        EventKind.SUCCEEDED,
        EventKind.UNCHANGED,
        EventKind.FAILED,
        EventKind.ROLLED_BACK,
        EventKind.CANCELLED,
        EventKind.TROUBLE,
    }
)

_WORDS: Mapping[EventKind, str] = {
    EventKind.STARTED: "{kind} started",
    EventKind.WAITING: "a deployment waits",
    EventKind.SUCCEEDED: "{kind} succeeded",
    EventKind.UNCHANGED: "{kind}: the wanted version runs already",
    EventKind.FAILED: "{kind} failed",
    EventKind.ROLLED_BACK: "{kind} rolled back",
    EventKind.CANCELLED: "{kind} cancelled",
    EventKind.TROUBLE: "trouble after its rollout",
    EventKind.RECOVERED: "well again",
    EventKind.TEST: "this is a test",
}
_ROLLOUTS = frozenset({Kind.DEPLOY, Kind.REDEPLOY, Kind.ROLLBACK})
_OUTCOMES: Mapping[Status, EventKind] = {
    Status.SUCCEEDED: EventKind.SUCCEEDED,
    Status.UNCHANGED: EventKind.UNCHANGED,
    Status.FAILED: EventKind.FAILED,
    Status.ROLLED_BACK: EventKind.ROLLED_BACK,
    Status.CANCELLED: EventKind.CANCELLED,
    Status.SUPERSEDED: EventKind.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What is written down of an event: without secrets. What has the same `key` happens once."""

    application_id: str
    deployment_id: str | None
    key: str
    kind: EventKind
    content: Mapping[str, Any] = field(default_factory=dict)


def of_outcome(deployment: Deployment, outcome: Outcome) -> Occurrence | None:
    """Return the event of the end of a deployment."""
    kind = _OUTCOMES.get(outcome.status)
    if kind is None or (deployment.kind not in _ROLLOUTS and kind is not EventKind.FAILED):
        return None
    return of_deployment(deployment, kind, outcome.reason, digest=outcome.digest)


def of_deployment(
    deployment: Deployment,
    kind: EventKind,
    reason: Reason | None,
    *,
    digest: str | None = None,
    once: str = "",
    done: str = "",
) -> Occurrence:
    """Return an event of a deployment. `once` distinguishes events of one kind; `done` says what follows from it."""
    return Occurrence(
        deployment.application_id,
        deployment.deployment_id,
        f"deployment:{deployment.deployment_id}:{kind}{once}",
        kind,
        {
            "deployment": {
                "deploymentId": deployment.deployment_id,
                "kind": deployment.kind.value,
                "image": None if deployment.reference is None else str(deployment.reference),
                "digest": digest or deployment.digest,
                "requestedBy": deployment.asked_by,
            },
            "reason": _describe(reason),
            "done": done,
        },
    )


def of_state(application_id: str, kind: EventKind, detail: str, done: str, *, once: str) -> Occurrence:
    """Return an event of the observed state of an application."""
    content = {"deployment": None, "reason": None, "detail": _shorten(detail), "done": done}
    return Occurrence(application_id, None, f"application:{application_id}:{kind}:{once}", kind, content)


def _describe(reason: Reason | None) -> Mapping[str, str] | None:
    if reason is None:
        return None
    return {"code": reason.code.value, "message": _shorten(reason.message), "remedy": reason.remedy}


def _shorten(text: str) -> str:
    # PostgreSQL stores no NUL in JSON, and a foreign message may have half of a surrogate pair.
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@dataclass(frozen=True, slots=True)
class Event:
    """A written event."""

    event_id: str
    kinds: tuple[EventKind, ...]
    application_id: str
    deployment_id: str | None
    content: Mapping[str, Any]
    created_at: datetime

    @property
    def kind(self) -> EventKind:
        """The kind that names it."""
        return self.kinds[0]

    @property
    def type(self) -> str:
        """The type that programs get."""
        about = "deployment" if self.content.get("deployment") else "application"
        return "alert.test" if self.kind is EventKind.TEST else f"{about}.{self.kind}"

    @property
    def application_name(self) -> str:
        return str(self.content["application"]["name"])

    def message(self) -> dict[str, Any]:
        """Return what programs get: https://www.standardwebhooks.com names these fields."""
        data = {
            "kinds": [one.value for one in self.kinds],
            "application": self.content["application"],
            "deployment": self.content.get("deployment"),
            "reason": self.content.get("reason"),
            "detail": self.content.get("detail"),
        }
        return {"type": self.type, "timestamp": self.created_at.astimezone(UTC).isoformat(), "data": data}

    def title(self) -> str:
        """Return the title for people, on one line."""
        deployment = self.content.get("deployment") or {}
        words = _WORDS.get(self.kind, self.kind.value).format(kind=deployment.get("kind", "deploy"))
        if self.kind is not EventKind.RECOVERED and EventKind.RECOVERED in self.kinds:
            words += ", after one that did not"
        if EventKind.FIRST in self.kinds:
            words += ", for the first time"
        return safe_line(f"{self.application_name}: {words}")

    def body(self) -> str:
        """Return the lines for people."""
        reason, deployment = self.content.get("reason") or {}, self.content.get("deployment") or {}
        lines = [
            reason.get("message"),
            reason.get("remedy"),
            f"Code: {reason['code']}" if reason.get("code") else "",
            self.content.get("detail"),
            self.content.get("done"),
            f"Image: {deployment['image']}" if deployment.get("image") else "",
            f"Deployment: {deployment['deploymentId']}" if deployment else f"Application: {self.application_id}",
        ]
        return "\n".join(safe_line(one) for one in lines if one)


def trial_event(name: str, now: datetime) -> Event:
    """Return an event by which an alert is tried out."""
    content = {
        "application": {"applicationId": "", "name": name, "environment": None, "project": None, "url": None},
        "detail": "An alert of the gateway was tried out. There is nothing to do.",
    }
    return Event(f"test-{int(now.timestamp() * 1000)}", (EventKind.TEST,), "", None, content, now)


class ReceiverKind(StrEnum):
    """Who gets the events."""

    #: people, by what Apprise reaches
    APPRISE = "apprise"
    #: a program, by a signed webhook
    WEBHOOK = "webhook"
    # -- where the source code is: its commits and deployments
    GITHUB = "github"
    GITLAB = "gitlab"
    GITEA = "gitea"

    @property
    def shows_commits(self) -> bool:
        return self in {ReceiverKind.GITHUB, ReceiverKind.GITLAB, ReceiverKind.GITEA}

    @property
    def usual_events(self) -> frozenset[EventKind]:
        if self.shows_commits:
            return FOR_COMMITS
        return FOR_PEOPLE if self is ReceiverKind.APPRISE else FOR_PROGRAMS


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it is set, with how its receiver does. `address` is a secret, None if no key decrypts it."""

    alert_id: str
    name: str
    application_id: str | None
    project_id: str | None
    receiver: ReceiverKind
    target: str
    events: tuple[EventKind, ...]
    quiet_hours: tuple[Mapping[str, Any], ...]
    allow_private: bool
    enabled: bool
    created_at: datetime
    set_at: datetime | None
    failures: int
    paused_until: datetime | None
    last_error: str | None
    delivered_at: datetime | None
    address: Mapping[str, Any] | None = field(default=None, repr=False)
    #: why the address cannot be decrypted
    unreadable: str = ""
    #: deliveries that wait
    waiting: int = 0
