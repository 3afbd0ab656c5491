"""Which of the pushes told at once an application follows, and why not the others. It performs no I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from gateway.model.applications import Desired
from gateway.model.events import Ignored, PushEvent
from gateway.model.reference import Reference, Repository, Tag
from gateway.model.tag_policies import Rule, TagPolicy, is_lower, is_version

_NO_SUBSCRIPTION = "no subscription"
_MAX_LISTED = 5  # of what is followed instead


#: pushes, each with the policies that take it
MatchedPushes = tuple[tuple[PushEvent, TagPolicy], ...]


class SubscribedRepository(Protocol):
    """What is followed of a path: at which host's repository, and which of its tags."""

    @property
    def repository(self) -> Repository: ...

    @property
    def policy(self) -> TagPolicy: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An application that follows one or more of the pushes told at once."""

    application_id: str
    desired: Desired
    #: the application's, or that of a deployment that waits or runs: it is to be the application's
    image: Reference | None
    #: the pushes, in the order they were told, each with the policies that take it
    matches: MatchedPushes

    @property
    def upgrades_only(self) -> bool:
        """Whether it matters what runs."""
        return any(policy.upgrades_only for _, policy in self.matches)


@dataclass(frozen=True, slots=True)
class PushFilter:
    """One way in which an application follows pushes: of a repository, or the one with this number, counted from 1."""

    number: int | None
    repository: str
    policy: TagPolicy
    from_image: bool


class PushMatcher:
    """The pushes told at once. Which of them a policy takes is found once, however many applications have it."""

    def __init__(self, events: Sequence[PushEvent]) -> None:
        self._events = events
        self._of: dict[str, list[int]] = {}
        for number, event in enumerate(events, 1):
            self._of.setdefault(str(event.repository), []).append(number)
        self._numbers: dict[tuple[int | None, str, TagPolicy], list[int]] = {}
        self._taken: dict[tuple[PushFilter, ...], MatchedPushes] = {}

    def evaluate(self, one: PushFilter) -> bool:
        """Find what is taken in this way; tell whether that was not known, and so may have taken a while."""
        new = (one.number, one.repository, one.policy) not in self._numbers
        self._matching(one)
        return new

    def matches(self, follows: tuple[PushFilter, ...]) -> MatchedPushes:
        """Return those that are taken in one of these ways, in the order they were told, the image's own way first."""
        if follows not in self._taken:
            found = [(number, not one.from_image, one.policy) for one in follows for number in self._matching(one)]
            found.sort(key=lambda pair: pair[:2])
            self._taken[follows] = tuple((self._events[number - 1], policy) for number, _, policy in found)
        return self._taken[follows]

    def _matching(self, one: PushFilter) -> list[int]:
        way = (one.number, one.repository, one.policy)
        if way not in self._numbers:
            numbers = self._of.get(one.repository, []) if one.number is None else [one.number]
            self._numbers[way] = [number for number in numbers if one.policy.matches(self._events[number - 1].tag)]
        return self._numbers[way]


@dataclass(frozen=True, slots=True)
class Match:
    """The one push that is followed."""

    event: PushEvent
    policy: TagPolicy
    image: Reference | None

    @property
    def changes_image(self) -> bool:
        """Whether the application's image becomes another name."""
        return self.image != self.event.reference

    @property
    def changes_subscription(self) -> bool:
        """Whether the tag the image had is followed no more: it was one of many. Tags named one by one all stay."""
        return self.changes_image and self.policy.rule is not Rule.EXACT

    @property
    def title(self) -> str:
        return f"{self.event.reference} pushed"

    @property
    def description(self) -> str:
        return f"followed by {self.policy}; the image was {self.image}" if self.changes_image else ""


def select_push(follower: Candidate, above: Iterable[Reference]) -> tuple[Match | None, list[Ignored]]:
    """Return the push to follow, and what was passed over. `above` is what runs, starts or waits."""
    if follower.desired is Desired.STOPPED:
        events = dict.fromkeys(event for event, _ in follower.matches)
        return None, [Ignored(str(event.reference), "stopped") for event in events]
    reached = _HighestVersions(above)
    chosen: Match | None = None
    passed_over: list[Ignored] = []
    for event, pairs in groupby(follower.matches, key=lambda pair: pair[0]):
        higher = reached.higher(event)
        policy = next((policy for _, policy in pairs if higher is None or not policy.upgrades_only), None)
        if policy is None:
            reason = f"lower than {higher}, which runs or is about to"
            passed_over.append(Ignored(str(event.reference), reason))
            continue
        if chosen is not None:
            passed_over.append(Ignored(str(chosen.event.reference), f"told together with {event.tag}"))
        chosen = Match(event, policy, follower.image)
        reached.add(event.reference)
    return chosen, passed_over


def explain_unmatched(events: Iterable[PushEvent], followed: Sequence[SubscribedRepository]) -> list[Ignored]:
    """Say of pushes that nobody follows what is followed instead, once a repository, and how to follow them."""
    told: set[Repository] = set()
    ignored = []
    for event in events:
        reason = (
            _NO_SUBSCRIPTION
            if event.repository in told
            else f"{_NO_SUBSCRIPTION}: {_suggest_subscription(event, followed)}"
        )
        told.add(event.repository)
        ignored.append(Ignored(str(event.reference), reason))
    return ignored


def _suggest_subscription(event: PushEvent, followed: Sequence[SubscribedRepository]) -> str:
    here = sorted({str(one.policy) for one in followed if one.repository == event.repository})
    there = sorted({str(one.repository) for one in followed if one.repository.path == event.repository.path})
    to_follow = (
        f"to follow this: gateway subscriptions create APPLICATION exact {event.tag} --repository {event.repository}"
    )
    if here:
        return f"of {event.repository} is followed {', '.join(here[:_MAX_LISTED])}; {to_follow}"
    if there:
        hosts = ", ".join(there[:_MAX_LISTED])
        return f"{event.repository} is followed by nobody, but {hosts} is: compare the webhook's --host; or {to_follow}"
    return f"{event.repository} is followed by nobody; {to_follow}"


class _HighestVersions:
    """The highest version of each repository that runs, starts, waits or was told before."""

    def __init__(self, above: Iterable[Reference]) -> None:
        self._highest: dict[Repository, Tag] = {}
        for one in above:
            self.add(one)

    def add(self, reference: Reference) -> None:
        if is_version(reference.tag):
            highest = self._highest.setdefault(reference.repository, reference.tag)
            if is_lower(highest, reference.tag):
                self._highest[reference.repository] = reference.tag

    def higher(self, event: PushEvent) -> Tag | None:
        highest = self._highest.get(event.repository)
        return highest if is_lower(event.tag, highest) else None
