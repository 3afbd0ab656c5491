"""Accept many deliveries by one statement: `accept_3` of migrations/0016_accept_3.sql.

It decides the deliveries whose pushes deploy the image that an application is configured with, under its own tag, or
nothing. For one push, `accept_lone` of migrations/0021_accept_lone.sql does the same in less time. Where they leave
some, `accept_repeats` of migrations/0020_accept_repeats.sql decides the repetitions among them that deploy nothing.
`gateway.queue.ingest` decides the others.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import asyncpg
import orjson

from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, PushEvent
from gateway.model.matching import NO_SUBSCRIPTION, explain_unmatched
from gateway.model.reference import DOCKER_HUB, LATEST, Reference, Repository, Tag
from gateway.store.database import Connection
from gateway.store.subscriptions import parse_subscribed

_ACCEPT = "SELECT * FROM accept_3($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23)"
_ACCEPT_LONE = _ACCEPT.replace("accept_3", "accept_lone")
_ACCEPT_REPEATS = "SELECT * FROM accept_repeats($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)"
_LIBRARY = "library/"


@dataclass(slots=True)
class Delivery:
    """An authenticated delivery of an endpoint, as it was last read from the database."""

    delivery_id: str
    endpoint_id: str
    #: changes with each change of the endpoint's row
    endpoint_version: str
    source: str
    #: deliveries of an endpoint with the same key are duplicates
    key: str
    #: how long the key is valid; None: as long as its delivery is kept
    key_window: timedelta | None
    may_repeat: bool
    headers: Mapping[str, str]
    body: bytes
    pushes: tuple[PushEvent, ...]
    ignored: tuple[Ignored, ...]


class Acceptance(NamedTuple):
    """The outcome of one delivery. `verdict` is None if it was not accepted."""

    verdict: str | None
    #: it may be accepted if it is given to `accept` again
    again: bool = False
    duplicate_of: str | None = None
    #: pairs of deployment and application
    deployments: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Ignored, ...] = ()
    #: what subscribes to a path of its images, where that was not what `accept` was given
    subscribed: tuple[tuple[str, str], ...] = ()


UNDECIDED = Acceptance(None)


class RowIsLocked(Exception):
    """Somebody else holds a row that a batch needs, and not only for a moment."""


async def accept(
    connection: Connection, deliveries: Sequence[Delivery], subscribed: Mapping[str, str]
) -> list[Acceptance]:
    """Store deliveries and queue what they cause, and return for each what was done.

    `subscribed` is what is known to subscribe to the paths of repositories, as an earlier `accept` returned it.
    Raises RowIsLocked, and stores nothing then.
    """
    accepted = await _accept_new(connection, deliveries, subscribed)
    if left := [place for place, one in enumerate(accepted) if one is UNDECIDED]:
        repeats = await _accept_repeats(connection, [deliveries[place] for place in left], subscribed)
        for place, one in zip(left, repeats, strict=True):
            accepted[place] = one
    return accepted


async def _accept_new(
    connection: Connection, deliveries: Sequence[Delivery], subscribed: Mapping[str, str]
) -> list[Acceptance]:
    batch = _Batch(deliveries, subscribed)
    images, digests = batch.images, [push.digest for _, _, push in batch.pushes]
    is_lone = len(deliveries) == len(digests) == 1
    key_order: dict[tuple[int, str], int] = {}
    for place, delivery in enumerate(deliveries, 1):
        key_order.setdefault((batch.of_endpoint[place - 1], delivery.key), place)
    columns: tuple[Sequence[Any], ...] = (
        *batch.endpoints,
        *batch.deliveries,
        [one.body for one in deliveries],
        [_as_parts(one.ignored) for one in deliveries],
        batch.unmatched,
        [key_order[key] for key in sorted(key_order)],
        [place for place, _, _ in batch.pushes],
        [image for _, image, _ in batch.pushes],
        digests if is_lone or any(digests) else [],
        [one.repository for one in images.found],
        [one.tag for one in images.found],
        [one.names for one in images.found],
        images.known,
        [one.reason.json for one in images.found],
        [one.further.json for one in images.found],
    )
    try:
        if is_lone:
            rows = await connection.fetch(_ACCEPT_LONE, *[column[0] for column in columns])
        else:
            rows = await connection.fetch(_ACCEPT, *columns)
    except asyncpg.LockNotAvailableError as error:
        raise RowIsLocked from error
    done = [UNDECIDED] * len(deliveries)
    for number, again, duplicate_of, there, accepted, linked, deployment_ids, application_ids, unfollowed in rows:
        if number == 0:
            caused: dict[int, list[tuple[str, str]]] = {}
            for place, *pair in zip(linked or (), deployment_ids or (), application_ids or (), strict=True):
                caused.setdefault(place, []).append((pair[0], pair[1]))
            ignored = images.ignored(batch.pushes, frozenset(unfollowed)) if unfollowed else {}
            for place, delivery in enumerate(deliveries, 1):
                if accepted is None or accepted[place - 1]:
                    done[place - 1] = Acceptance(
                        "queued" if place in caused else "ignored",
                        deployments=tuple(caused.get(place, ())),
                        ignored=(*delivery.ignored, *ignored.get(place, ())),
                    )
        elif again:
            done[number - 1] = images.again(there)
        else:
            done[number - 1] = Acceptance("duplicate", duplicate_of=duplicate_of)
    return done


async def _accept_repeats(
    connection: Connection, deliveries: Sequence[Delivery], subscribed: Mapping[str, str]
) -> list[Acceptance]:
    """Store those that repeat a delivery and deploy nothing. On an error of the database, none of them is decided."""
    batch = _Batch(deliveries, subscribed)
    images, done = batch.images, [UNDECIDED] * len(deliveries)
    try:
        rows = await connection.fetch(
            _ACCEPT_REPEATS,
            *batch.endpoints,
            *batch.deliveries,
            [one.body for one in deliveries],
            batch.unmatched,
            [place for place, _, _ in batch.pushes],
            [image for _, image, _ in batch.pushes],
            [one.repository for one in images.found],
            [one.tag for one in images.found],
            images.known,
        )
    except asyncpg.PostgresError:
        return done  # what the first statement has accepted is committed
    ignored = images.ignored(batch.pushes, range(1, len(images.found) + 1))
    for number, duplicate_of, unfollowed, there in rows:
        if duplicate_of is None:
            done[number - 1] = images.again(there)
        else:
            parts = (*deliveries[number - 1].ignored, *ignored.get(number, ())) if unfollowed else ()
            done[number - 1] = Acceptance("duplicate", duplicate_of=duplicate_of, ignored=parts)
    return done


class _Batch:
    """Deliveries as arguments of the functions that accept them. Numbers begin at 1."""

    def __init__(self, deliveries: Sequence[Delivery], subscribed: Mapping[str, str]) -> None:
        endpoints = {pair: number for number, pair in enumerate(sorted({_endpoint(one) for one in deliveries}), 1)}
        headers = {id(one.headers): one.headers for one in deliveries}  # many may share them
        header_numbers = {one: number for number, one in enumerate(headers, 1)}
        self.images = _Images(subscribed)
        #: the number of a delivery, that of the image, and the push
        self.pushes: list[tuple[int, int, PushEvent]] = []
        #: what each delivery ignores where none of its pushes deploys something, as parts of a JSON array
        self.unmatched: list[str | None] = []
        self.of_endpoint = [endpoints[_endpoint(one)] for one in deliveries]
        for place, delivery in enumerate(deliveries, 1):
            begin = len(self.pushes)
            for push in delivery.pushes:
                self.pushes.append((place, self.images.number_of(push), push))
            self.unmatched.append(self.images.unmatched(delivery, self.pushes[begin:]))
        self.endpoints = (
            [endpoint_id for endpoint_id, _, _ in endpoints],
            [version for _, version, _ in endpoints],
            [source for _, _, source in endpoints],
            list(headers.values()),
        )
        self.deliveries = (
            [one.delivery_id for one in deliveries],
            self.of_endpoint,
            [header_numbers[id(one.headers)] for one in deliveries],
            [one.key for one in deliveries],
            [None if one.key_window is None else one.key_window.total_seconds() for one in deliveries],
            [one.may_repeat for one in deliveries],
        )


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why a push of an image deploys nothing, if so; also as it is stored."""

    ignored: Ignored
    json: str


@dataclass(frozen=True, slots=True)
class _Image:
    repository: str
    tag: str
    #: the ways in which people write it, separated by blanks
    names: str
    path: str
    reason: _Reason
    #: of a further push of its repository in one delivery
    further: _Reason


class _Images:
    """The images of a batch, each once. Their numbers begin at 1."""

    def __init__(self, subscribed: Mapping[str, str]) -> None:
        self._subscribed = subscribed
        self._numbers: dict[tuple[Repository, Tag], int] = {}
        self.found: list[_Image] = []
        #: what is known to subscribe to the path of each
        self.known: list[str] = []

    def again(self, there: Mapping[str, str] | None) -> Acceptance:
        """Return that a delivery is to be given again, since this is subscribed at the paths of these images."""
        paths = {} if there is None else there
        return Acceptance(
            None, again=True, subscribed=tuple((self.found[int(one) - 1].path, lines) for one, lines in paths.items())
        )

    def ignored(
        self, pushes: Iterable[tuple[int, int, PushEvent]], unfollowed: Collection[int]
    ) -> dict[int, list[Ignored]]:
        """Return by the number of a delivery what of it deploys nothing; pushes are with their delivery and image."""
        found: dict[int, list[Ignored]] = {}
        seen: set[tuple[int, Repository]] = set()
        for place, image, push in pushes:
            if image in unfollowed:
                is_further = (place, push.repository) in seen
                one = self.found[image - 1]
                found.setdefault(place, []).append(one.further.ignored if is_further else one.reason.ignored)
                seen.add((place, push.repository))
        return found

    def unmatched(self, delivery: Delivery, pushes: Sequence[tuple[int, int, PushEvent]]) -> str | None:
        """Return what a delivery ignores where none of its pushes deploys something, as parts of a JSON array."""
        if len(pushes) == 1 and not delivery.ignored:  # as most are
            return self.found[pushes[0][1] - 1].reason.json
        parts, seen = [_as_json(one) for one in delivery.ignored], set[Repository]()
        for _, image, push in pushes:
            one = self.found[image - 1]
            parts.append(one.further.json if push.repository in seen else one.reason.json)
            seen.add(push.repository)
        return ",".join(parts) if parts else None

    def number_of(self, push: PushEvent) -> int:
        """Return the number of the image that was pushed."""
        key = (push.repository, push.tag)
        number = self._numbers.get(key)
        if number is None:
            known = self._subscribed.get(push.repository.path, "")
            self.found.append(_image(push.repository, push.tag, known))
            self.known.append(known)
            number = self._numbers[key] = len(self.found)
        return number


def _endpoint(delivery: Delivery) -> tuple[str, str, str]:
    return delivery.endpoint_id, delivery.endpoint_version, delivery.source


def _as_parts(ignored: Sequence[Ignored]) -> str | None:
    return ",".join(map(_as_json, ignored)) if ignored else None


def _as_json(ignored: Ignored) -> str:
    return orjson.dumps({"reference": ignored.reference, "reason": ignored.reason}).decode()


def _reason(ignored: Ignored) -> _Reason:
    return _Reason(ignored, _as_json(ignored))


@lru_cache(maxsize=8192)
def _image(repository: Repository, tag: Tag, subscribed: str) -> _Image:
    (unmatched,) = explain_unmatched([PushEvent(repository, tag)], parse_subscribed(subscribed))
    return _Image(
        str(repository),
        tag,
        " ".join(_names(repository, tag)),
        repository.path,
        _reason(unmatched),
        _reason(Ignored(unmatched.reference, NO_SUBSCRIPTION)),
    )


def _names(repository: Repository, tag: Tag) -> list[str]:
    """Return the ways in which people write an image."""
    full, short = str(repository), repository.path
    names = [full]
    if repository.domain == DOCKER_HUB:
        names += [short, short.removeprefix(_LIBRARY), f"{DOCKER_HUB}/{short.removeprefix(_LIBRARY)}"]
    names = [f"{name}:{tag}" for name in names] + (names if tag == LATEST else [])
    image = Reference(repository, tag)
    return [name for name in dict.fromkeys(names) if _names_image(name, image)]


def _names_image(name: str, image: Reference) -> bool:
    try:
        return Reference.parse(name) == image
    except InvalidInput:
        return False
