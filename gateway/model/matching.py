"""Which push of a delivery an application deploys, and why the others are ignored. It performs no I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from gateway.model.applications import Desired
from gateway.model.events import Ignored, PushEvent
from gateway.model.reference import Reference, Repository, Tag
from gateway.model.tag_policies import Rule, TagPolicy, is_lower, is_version

#: the reason of an unmatched push; the first one to a repository has a longer one
NO_SUBSCRIPTION = "no subscription"
_MAX_LISTED = 5  # subscriptions or hosts that a message names


#: pushes, each with a tag policy that matches it
MatchedPushes = tuple[tuple[PushEvent, TagPolicy], ...]


class SubscribedRepository(Protocol):
    """A repository and the tag policy of a subscription to it."""

    @property
    def repository(self) -> Repository: ...

    @property
    def policy(self) -> TagPolicy: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An application with subscriptions that match one or more pushes of a delivery."""

    application_id: str
    desired: Desired
    #: the application's image, or that of its queued or running deployment, which will become the application's
    image: Reference | None
    #: in the order of the delivery
    matches: MatchedPushes

    @property
    def upgrades_only(self) -> bool:
        """Whether the decision depends on the version that runs."""
        return any(policy.upgrades_only for _, policy in self.matches)


@dataclass(frozen=True, slots=True)
class PushFilter:
    """A subscription as a filter of the pushes to a repository, or of the push with this number, counted from 1."""

    number: int | None
    repository: str
    policy: TagPolicy
    from_image: bool


class PushMatcher:
    """The pushes of a delivery. Each filter is evaluated once, however many applications have it."""

    def __init__(self, events: Sequence[PushEvent]) -> None:
        self._events = events
        self._by_repository: dict[str, list[int]] = {}
        for number, event in enumerate(events, 1):
            self._by_repository.setdefault(str(event.repository), []).append(number)
        self._numbers: dict[tuple[int | None, str, TagPolicy], list[int]] = {}
        self._matches: dict[tuple[PushFilter, ...], MatchedPushes] = {}

    def evaluate(self, one: PushFilter) -> bool:
        """Evaluate a filter. Returns False if the result was cached, True if it had to be computed."""
        new = (one.number, one.repository, one.policy) not in self._numbers
        self._matching(one)
        return new

    def matches(self, filters: tuple[PushFilter, ...]) -> MatchedPushes:
        """Return the pushes that match one of the filters, in delivery order; the filter of the image comes first."""
        if filters not in self._matches:
            found = [(number, not one.from_image, one.policy) for one in filters for number in self._matching(one)]
            found.sort(key=lambda pair: pair[:2])
            self._matches[filters] = tuple((self._events[number - 1], policy) for number, _, policy in found)
        return self._matches[filters]

    def _matching(self, one: PushFilter) -> list[int]:
        key = (one.number, one.repository, one.policy)
        if key not in self._numbers:
            numbers = self._by_repository.get(one.repository, []) if one.number is None else [one.number]
            self._numbers[key] = [number for number in numbers if one.policy.matches(self._events[number - 1].tag)]
        return self._numbers[key]


@dataclass(frozen=True, slots=True)
class Match:
    """The push to deploy, and the tag policy that matched it."""

    event: PushEvent
    policy: TagPolicy
    image: Reference | None

    @property
    def changes_image(self) -> bool:
        """Whether the push names another image than the application's."""
        return self.image != self.event.reference

    @property
    def changes_subscription(self) -> bool:
        """Whether the subscription of the image moves to the new tag. It does not if an exact policy matched."""
        return self.changes_image and self.policy.rule is not Rule.EXACT

    @property
    def title(self) -> str:
        return f"{self.event.reference} pushed"

    @property
    def description(self) -> str:
        return f"followed by {self.policy}; the image was {self.image}" if self.changes_image else ""


def select_push(candidate: Candidate, above: Iterable[Reference]) -> tuple[Match | None, list[Ignored]]:
    """Return the push to deploy, and the pushes to ignore. `above`: the images that run, start or are queued."""
    if candidate.desired is Desired.STOPPED:
        events = dict.fromkeys(event for event, _ in candidate.matches)
        return None, [Ignored(str(event.reference), "stopped") for event in events]
    highest = _HighestVersions(above)
    chosen: Match | None = None
    passed_over: list[Ignored] = []
    for event, pairs in groupby(candidate.matches, key=lambda pair: pair[0]):
        higher = highest.higher(event)
        policy = next((policy for _, policy in pairs if higher is None or not policy.upgrades_only), None)
        if policy is None:
            reason = f"lower than {higher}, which runs or is about to"
            passed_over.append(Ignored(str(event.reference), reason))
            continue
        if chosen is not None:
            passed_over.append(Ignored(str(chosen.event.reference), f"superseded by {event.tag} of the same delivery"))
        chosen = Match(event, policy, candidate.image)
        highest.add(event.reference)
    return chosen, passed_over


def explain_unmatched(events: Iterable[PushEvent], followed: Sequence[SubscribedRepository]) -> list[Ignored]:
    """Explain why pushes matched no subscription, once for each repository, and how to subscribe to them."""
    explained: set[Repository] = set()
    ignored = []
    for event in events:
        reason = (
            NO_SUBSCRIPTION
            if event.repository in explained
            else f"{NO_SUBSCRIPTION}: {_suggest_subscription(event, followed)}"
        )
        explained.add(event.repository)
        ignored.append(Ignored(str(event.reference), reason))
    return ignored


def _suggest_subscription(event: PushEvent, followed: Sequence[SubscribedRepository]) -> str:
    here = sorted({str(one.policy) for one in followed if one.repository == event.repository})
    there = sorted({str(one.repository) for one in followed if one.repository.path == event.repository.path})
    hint = f"to subscribe: gateway subscriptions create APPLICATION exact {event.tag} --repository {event.repository}"
    if here:
        return f"the subscriptions of {event.repository} are {', '.join(here[:_MAX_LISTED])}; {hint}"
    if there:
        hosts = ", ".join(there[:_MAX_LISTED])
        return f"{event.repository} has none, but {hosts} has: check the webhook's --host; or {hint}"
    return f"{event.repository} has none; {hint}"


class _HighestVersions:
    """The highest version of each repository among the images that run, start, are queued or were pushed before."""

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
