"""What an application is seen to do on its engine, apart from how its last deployment ended. It performs no I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.model.applications import Desired

#: an observation that is older tells nothing of now
STALE_AFTER = timedelta(minutes=5)

_SHORT_DELAY = timedelta(seconds=5)
_LONG_DELAY = timedelta(seconds=60)


class State(StrEnum):
    """What was seen of it."""

    RUNNING = "running"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    MISSING = "missing"
    DRIFTED = "drifted"
    #: it was not looked at lately: its engine is not reached
    UNKNOWN = "unknown"


#: what is there, or is not, though it should be otherwise: what was changed by hand, or went away
_NEEDS_HEALING = frozenset({State.STOPPED, State.MISSING, State.DRIFTED})
_UNWELL = frozenset({State.UNHEALTHY, State.RESTARTING})


@dataclass(frozen=True, slots=True)
class ObservedState:
    """A state, and what more is to be said of it."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """As it is stored: in this state since then, seen last at `observed_at`."""

    state: State
    detail: str
    since: datetime
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class ExpectedState:
    """What should be on the engine of an application that has been deployed, or was adopted."""

    application_id: str
    name: str
    app_name: str
    installation_id: str
    desired: Desired
    #: what differs is put right
    heal: bool
    #: what serves is as it was adopted: nothing of ours is to be found on it
    as_adopted: bool
    #: the deployment that brought what serves, and what that was made of
    deployment_id: str | None
    digest: str | None
    spec_hash: str | None
    #: one of its deployments runs: it is between two states
    has_running_deployment: bool
    #: it has an open swap or a watch: who sees to that tells of it
    is_monitored: bool
    #: a deployment of it waits, and may put it right
    has_queued_deployment: bool

    def should_alert(self, state: State) -> bool:
        """Tell whether people are to be told of it."""
        if self.desired is not Desired.RUNNING:
            return state is State.DRIFTED
        return state in _NEEDS_HEALING | _UNWELL

    def should_heal(self, state: State) -> bool:
        attended = self.is_monitored or self.has_queued_deployment
        return self.heal and not attended and self.desired is Desired.RUNNING and state in _NEEDS_HEALING


def alert_delay(state: State, *, waits: bool) -> timedelta:
    """Return how long a state must last until people are told: it may get well by itself, or by what waits."""
    return _LONG_DELAY if waits or state in _UNWELL else _SHORT_DELAY
