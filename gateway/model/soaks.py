"""Soaks: how long an application that another one follows has run a digest well. It performs no I/O.

The clock of a digest runs while the application is observed to be well with it, in one and the same run: the same
container since the same start, or the same tasks of a service.

    well, in the same run            it goes on
    nobody observed it for a while   it goes on, without that time
    not well, or something else      it stands, and begins anew with the next run

What it shows counts once the monitor window of the version is over. A digest that is rolled back, or has trouble in its
monitor window, loses what it has shown.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.model.applications import Desired
from gateway.model.observations import STALE_AFTER, State
from gateway.model.reference import Digest, Reference

#: observations further apart leave a time in which nobody observed the application
LONGEST_GAP = STALE_AFTER

_WELL = frozenset({State.RUNNING, State.HEALTHY})


def is_well(state: State) -> bool:
    """Tell whether time in this state counts."""
    return state in _WELL


@dataclass(frozen=True, slots=True)
class Soak:
    """The clock of one digest. `run` and `since` are None while it stands."""

    digest: Digest
    run: str | None = None
    since: datetime | None = None
    seen_at: datetime | None = None
    #: the most that it has shown
    longest: timedelta = timedelta()
    failed_at: datetime | None = None
    failure: str = ""

    @property
    def shows(self) -> timedelta:
        """What the clock shows now."""
        return timedelta() if self.since is None or self.seen_at is None else self.seen_at - self.since

    def see(self, run: str | None, at: datetime, *, in_window: bool) -> "Soak":
        """Return the clock after an observation: `run` is what ran well, None if it was not well."""
        if self.failed_at is not None and at <= self.failed_at:
            return self  # it was looked at before it failed
        if run is None:
            return self.stop()
        if self.since is None or self.seen_at is None or run != self.run:
            since = at
        else:
            gap = at - self.seen_at
            since = self.since if timedelta() <= gap <= LONGEST_GAP else self.since + gap
        longest = self.longest if in_window else max(self.longest, at - since)
        return replace(self, run=run, since=since, seen_at=at, longest=longest)

    def stop(self) -> "Soak":
        """Return the clock, which stands now. What it has shown stays."""
        return replace(self, run=None, since=None)


@dataclass(frozen=True, slots=True)
class Followed:
    """What is known of an application that is followed, and of one digest there."""

    application_id: str
    name: str
    desired: Desired
    #: the digest that its last deployment brought, and the image by which that was named
    serving: Digest | None
    image: Reference | None
    #: the end of the monitor window of that deployment, while it is open
    window_until: datetime | None
    #: a rollout runs there, a swap is open, or the release that brought the digest may still be put back
    is_busy: bool
    #: what is about to end the version: `rollback`, `stop`, `delete`
    ending: str | None
    #: a deployment that may bring the digest waits or runs there
    may_arrive: bool
    #: how the last deployment of the digest failed there, if it did
    failed_deployment: str | None
    state: State
    #: of the digest in question; None if it was never observed there
    soak: Soak | None

    def has_left(self, digest: Digest) -> str:
        """Return why the application no longer stands for this digest, or ""."""
        if self.ending is not None:
            return f"a {self.ending} of {self.name} is queued"
        if self.serving != digest:
            return f"{self.name} runs {self.serving or 'nothing'} now"
        if self.desired is not Desired.RUNNING:
            return f"{self.name} is {self.desired}"
        return ""

    @property
    def is_ailing(self) -> bool:
        """Whether it should run, and is observed not to run well."""
        return self.desired is Desired.RUNNING and self.state is not State.UNKNOWN and not is_well(self.state)

    def is_proven(self, soak: timedelta) -> bool:
        """Tell whether the digest in question has been proven for so long, now or before."""
        return self.soak is not None and self.soak.longest >= soak

    def is_due(self, digest: Digest, soak: timedelta, now: datetime) -> bool:
        """Tell whether the digest, which is the one in question, is to be promoted: it is proven by what runs now."""
        return (
            self.soak is not None
            and self.soak.seen_at is not None
            and now - self.soak.seen_at <= LONGEST_GAP
            and not self.has_left(digest)
            and not self.is_busy
            and self.window_until is None
            and self.is_proven(soak)
            and self.soak.run is not None
            and self.soak.shows >= soak
        )

    def due_at(self, soak: timedelta) -> datetime | None:
        """Return when the digest in question will be proven if all goes well; None while its clock stands."""
        if self.soak is None or self.soak.since is None:
            return None
        return max(self.soak.since + soak, self.window_until or self.soak.since)
