"""Promotions: what an application that follows another one got from it, or is about to get. It performs no I/O."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.model.reference import Digest

_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)


class PromotionState(StrEnum):
    """What has become of a promotion."""

    #: it waits for a person
    PROPOSED = "proposed"
    #: it is proven, but the follower cannot have it yet
    WAITING = "waiting"
    #: as a deployment, which may run by now
    QUEUED = "queued"
    PROMOTED = "promoted"
    #: its deployment failed, or it waited too long
    FAILED = "failed"
    #: by the gateway; it comes again if it is proven anew
    WITHDRAWN = "withdrawn"
    #: by a person
    DECLINED = "declined"


#: not over yet; a follower has at most one of these
OPEN = frozenset({PromotionState.PROPOSED, PromotionState.WAITING, PromotionState.QUEUED})


@dataclass(frozen=True, slots=True)
class Following:
    """How an application follows another one."""

    #: the follower
    application_id: str
    #: the id of the followed one
    follows: str
    #: for how long that one must have run a digest well
    soak: timedelta
    #: whether a promotion waits for a person
    proposes: bool
    #: for how long a promotion waits until the follower can have it
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Promotion:
    """One digest for one follower."""

    application_id: str
    digest: Digest
    follows: str
    state: PromotionState
    reason: str
    proven_at: datetime
    changed_at: datetime
    next_look_at: datetime | None
    deployment_id: str | None

    def may_begin(self, following: Following, now: datetime) -> bool:
        """Tell whether the gateway may promote it by itself now, provided that it is proven."""
        match self.state:
            case PromotionState.WITHDRAWN:
                return True
            case PromotionState.PROPOSED:
                return not following.proposes
            case PromotionState.WAITING:
                return self.next_look_at is None or self.next_look_at <= now
            case _:
                return False


def pause_after(waited: timedelta) -> timedelta:
    """Return how long to wait before the next look, after having waited so long: each time about twice as long."""
    return min(max(waited, _SHORTEST_PAUSE), _LONGEST_PAUSE)
