"""Releases: applications that go out together. The decision what comes next, from what is observed. It performs no I/O.

preparing ──▶ moving ──▶ proving ──▶ succeeded     every member runs the new version
    │           │           │
    └───────────┴───────────┴──▶ putting_back ──▶ put_back     every member runs what it ran before
                                      └─────────▶ failed       a person ended it as it was

Each member's deployment is pulled, verified and created before any member is touched. Then one wave after the other
moves. A member that fails, at any time, puts all back, in reverse order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.model.deployments import Kind
from gateway.model.errors import Code, Reason

#: what was prepared longer ago is prepared again before any member moves: a gate may have closed meanwhile
FRESH = timedelta(minutes=10)
#: a member that has not changed over for so long, and may still leave the old version alone, puts the release back
LONGEST_MOVE = timedelta(minutes=10)
_LONGEST_PAUSE = timedelta(seconds=60)  # before a member is put back again
_MAX_DOUBLINGS = 6


class ReleaseState(StrEnum):
    """The state of a release."""

    PREPARING = "preparing"
    MOVING = "moving"
    PROVING = "proving"
    PUTTING_BACK = "putting_back"
    SUCCEEDED = "succeeded"
    PUT_BACK = "put_back"
    FAILED = "failed"


ENDED = frozenset({ReleaseState.SUCCEEDED, ReleaseState.PUT_BACK, ReleaseState.FAILED})


class MemberState(StrEnum):
    """What is known of a member's deployment."""

    #: it is queued or runs, and may not touch what serves
    PREPARING = "preparing"
    #: it is pulled, verified and created, and waits for its wave
    PREPARED = "prepared"
    #: it may change what serves
    MOVING = "moving"
    #: the new version serves, and has proven itself
    MOVED = "moved"
    #: what the release brings ran already
    UNCHANGED = "unchanged"
    #: it ended, and the old version serves
    OLD = "old"
    #: it ended after its swap had begun, and nobody knows what serves
    UNKNOWN = "unknown"
    #: a rollback to what it ran before is under way
    GOING_BACK = "going_back"
    #: that rollback failed
    NOT_BACK = "not_back"
    #: what it ran before serves again
    BACK = "back"


#: the new version serves, for what is known
NEW = frozenset({MemberState.MOVED, MemberState.UNCHANGED})
_UNTOUCHED = frozenset({MemberState.PREPARING, MemberState.PREPARED})
_AT_REST = frozenset({MemberState.OLD, MemberState.BACK, MemberState.UNCHANGED})
_TO_PUT_BACK = frozenset({MemberState.MOVED, MemberState.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Member:
    """One application of a release, as it is now."""

    application_id: str
    name: str
    wave: int
    state: MemberState
    #: why its deployment ended
    reason: Reason | None = None
    #: whether its deployment is to be cancelled
    cancelling: bool = False
    #: whether no gateway works on its deployment, and no swap of it is open: cancelled now, it touches nothing
    idle: bool = False
    #: since when it may change what serves
    moving_since: datetime | None = None
    prepared_at: datetime | None = None
    #: what its monitor window has seen
    trouble: Reason | None = None
    #: whether its monitor window is open
    watched: bool = False
    #: what waits behind the release
    successor: Kind | None = None
    #: how often it was put back in vain, and when that ended last
    failures: int = 0
    failed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done next: the new state, and for which applications."""

    state: ReleaseState
    #: why it goes back
    reason: Reason | None = None
    #: they may change what serves from now on
    move: tuple[str, ...] = ()
    #: they are prepared once more
    prepare_again: tuple[str, ...] = ()
    #: what waits behind them takes their place in the release
    replace: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    put_back: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """A release as it is now."""

    state: ReleaseState
    reason: Reason | None
    #: who cancelled it; None for nobody
    cancelled_by: str | None
    abandoned: bool
    members: Sequence[Member]
    #: whether a person begins another release of a member: then the monitor windows of this one end
    overtaken: bool = False


def plan(release: Progress, now: datetime) -> Plan:
    """Decide what is next. The same facts give the same plan, so it may be made by anybody, again and again."""
    if release.state in ENDED:
        return Plan(release.state)
    if release.state is ReleaseState.PUTTING_BACK:
        return _put_back(release, release.reason, now)
    if (reason := _failure(release, now)) is not None:
        return _put_back(release, reason, now)
    if release.state is ReleaseState.PREPARING:
        return _prepare(release.members, now)
    return _move(release.members, overtaken=release.overtaken)


def _failure(release: Progress, now: datetime) -> Reason | None:
    """Return why the release cannot end with all members new; None if it can."""
    if release.cancelled_by is not None:
        return Reason(Code.CANCELLED, f"cancelled by {release.cancelled_by}")
    preparing = release.state is ReleaseState.PREPARING
    failures = (_failure_of(one, now) or (_overtaken(one) if preparing else None) for one in release.members)
    return next((one for one in failures if one is not None), None)


def _failure_of(member: Member, now: datetime) -> Reason | None:
    if member.trouble is not None:
        return Reason(member.trouble.code, f"{member.name} had trouble after its rollout: {member.trouble.message}")
    if member.state in NEW:
        return None
    if member.state not in _UNTOUCHED | {MemberState.MOVING}:
        why = member.reason or Reason(Code.RELEASE_FAILED, "its deployment is gone")
        return Reason(why.code, f"{member.name}: {why.message}")
    if member.cancelling:
        return Reason(Code.CANCELLED, f"the deployment of {member.name} was cancelled")
    if member.moving_since is not None and member.idle and now - member.moving_since > LONGEST_MOVE:
        because = f": {member.reason.message}" if member.reason else ""
        return Reason(Code.RELEASE_FAILED, f"{member.name} has not changed over for {LONGEST_MOVE}{because}")
    return None


def _overtaken(member: Member) -> Reason | None:
    """Return what a person asked for that leaves the member's deployment without a purpose."""
    if member.state not in _UNTOUCHED or member.successor is None or _joins(member.successor):
        return None
    return Reason(Code.CANCELLED, f"a {member.successor} of {member.name} was requested")


def _joins(kind: Kind) -> bool:
    """Tell whether a later request can take a member's place before anything is touched."""
    return kind in {Kind.DEPLOY, Kind.REDEPLOY}


def _prepare(members: Sequence[Member], now: datetime) -> Plan:
    """Wait until all are prepared; the newest request of each counts."""
    replaced = tuple(
        one.application_id
        for one in members
        if one.state is MemberState.PREPARED and one.successor is not None and _joins(one.successor)
    )
    if replaced or any(one.state is MemberState.PREPARING for one in members):
        return Plan(ReleaseState.PREPARING, replace=replaced)
    stale = tuple(
        one.application_id
        for one in members
        if one.state is MemberState.PREPARED and (one.prepared_at is None or now - one.prepared_at > FRESH)
    )
    if stale:
        return Plan(ReleaseState.PREPARING, prepare_again=stale)
    return _move(members)


def _move(members: Sequence[Member], *, overtaken: bool = False) -> Plan:
    """Let the first wave that has not succeeded move; at last, wait for the monitor windows."""
    if moving := [one for one in members if one.state not in NEW]:
        wave = min(one.wave for one in moving)
        due = tuple(one.application_id for one in moving if one.wave == wave and one.state is MemberState.PREPARED)
        return Plan(ReleaseState.MOVING, move=due)
    # A person who goes on with one of them ends the windows of all.
    overtaken = overtaken or any(one.successor is not None and not _joins(one.successor) for one in members)
    if overtaken or not any(one.watched for one in members):
        return Plan(ReleaseState.SUCCEEDED)
    return Plan(ReleaseState.PROVING)


def _put_back(release: Progress, reason: Reason | None, now: datetime) -> Plan:
    """Cancel what has not moved, and put back what has, the last wave first."""
    members = release.members
    cancel = tuple(
        one.application_id for one in members if one.state in _UNTOUCHED | {MemberState.MOVING} and not one.cancelling
    )
    if release.abandoned:
        going = tuple(
            one.application_id for one in members if one.state is MemberState.GOING_BACK and not one.cancelling
        )
        return Plan(ReleaseState.FAILED, reason, cancel=cancel + going)
    open_ = [one for one in members if not _is_at_rest(one)]
    if not open_:
        return Plan(ReleaseState.PUT_BACK, reason, cancel=cancel)
    last = max(one.wave for one in open_)
    back = tuple(one.application_id for one in open_ if one.wave == last and _may_go_back(one, now))
    return Plan(ReleaseState.PUTTING_BACK, reason, cancel=cancel, put_back=back)


def _is_at_rest(member: Member) -> bool:
    """Tell whether the old version serves, and stays."""
    # The cancellation of an idle one merely removes what was created: its engine may be away for long.
    idle = member.state is MemberState.MOVING and member.cancelling and member.idle
    return member.state in _AT_REST or member.state is MemberState.PREPARED or idle


def _may_go_back(member: Member, now: datetime) -> bool:
    if member.state in _TO_PUT_BACK:
        return True
    if member.state is not MemberState.NOT_BACK:
        return False
    pause = min(timedelta(seconds=2.0 ** min(member.failures - 1, _MAX_DOUBLINGS)), _LONGEST_PAUSE)
    return member.failed_at is None or now - member.failed_at >= pause
