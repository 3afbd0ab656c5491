"""The observed state of an application, apart from the outcome of its last deployment. It performs no I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.model.applications import Desired

#: an older observation says nothing about the current state
STALE_AFTER = timedelta(minutes=5)

_SHORT_DELAY = timedelta(seconds=5)
_LONG_DELAY = timedelta(seconds=60)


class State(StrEnum):
    """The observed state of an application."""

    RUNNING = "running"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    MISSING = "missing"
    DRIFTED = "drifted"
    #: it was not looked at lately: its engine is not reached
    UNKNOWN = "unknown"


NEEDS_HEALING = frozenset({State.STOPPED, State.MISSING, State.DRIFTED})
_UNWELL = frozenset({State.UNHEALTHY, State.RESTARTING})


@dataclass(frozen=True, slots=True)
class ObservedState:
    """A state and its detail. `is_newer`: a deployment made it that came after the backup of this database."""

    state: State
    detail: str = ""
    is_newer: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """A stored state: when it began, and when it was last seen."""

    state: State
    detail: str
    since: datetime
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class ExpectedState:
    """What should run on the engine for an application that has been deployed or adopted."""

    application_id: str
    name: str
    app_name: str
    installation_id: str
    desired: Desired
    #: the gateway restores the application when it is missing, stopped or changed
    heal: bool
    #: it serves as it was adopted: the original, without labels of the gateway, or a copy that the gateway made
    as_adopted: bool
    #: the deployment whose version serves, with its digest and specification
    deployment_id: str | None
    digest: str | None
    spec_hash: str | None
    #: its state may change at any moment
    has_running_deployment: bool
    #: it has an open swap or monitor window, which sends its own alerts
    is_monitored: bool
    #: that deployment may restore it
    has_queued_deployment: bool
    #: another application follows it: see `soaks`
    is_followed: bool = False

    def should_alert(self, state: State) -> bool:
        """Tell whether the state is worth an alert."""
        if self.desired is not Desired.RUNNING:
            return state is State.DRIFTED
        return state in NEEDS_HEALING | _UNWELL

    def should_heal(self, observed: ObservedState) -> bool:
        attended = self.is_monitored or self.has_queued_deployment or observed.is_newer
        return self.heal and not attended and self.desired is Desired.RUNNING and observed.state in NEEDS_HEALING


def alert_delay(state: State, *, waits: bool) -> timedelta:
    """Return how long a state must last before an alert: it may recover by itself, or by a queued deployment."""
    return _LONG_DELAY if waits or state in _UNWELL else _SHORT_DELAY
