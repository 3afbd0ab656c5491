"""Accept many deliveries by one statement: `accept` of migrations/0004_accept.sql.

It decides the deliveries whose pushes deploy the image that an application is configured with, under its own tag, or
nothing. `gateway.queue.ingest` decides the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import asyncpg
import orjson

from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, PushEvent
from gateway.model.matching import NO_SUBSCRIPTION, explain_unmatched
from gateway.model.reference import DOCKER_HUB, LATEST, Reference, Repository, Tag
from gateway.model.tag_policies import Rule, TagPolicy
from gateway.store.database import Connection
from gateway.store.subscriptions import SubscribedPolicy

_STATEMENT = "SELECT * FROM accept($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19)"
_LIBRARY = "library/"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Acceptance:
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
    numbers: dict[tuple[Repository, Tag], int] = {}
    images = []
    push_deliveries: list[int] = []
    push_images: list[int] = []
    push_digests: list[str | None] = []
    for place, delivery in enumerate(deliveries, 1):
        for push in delivery.pushes:
            image = (push.repository, push.tag)
            if (number := numbers.get(image)) is None:
                known = subscribed.get(push.repository.path, "")
                images.append((*_image(push.repository, push.tag, known), known))
                number = numbers[image] = len(images)
            push_deliveries.append(place)
            push_images.append(number)
            push_digests.append(push.digest)
    try:
        rows = await connection.fetch(
            _STATEMENT,
            [one.delivery_id for one in deliveries],
            [one.endpoint_id for one in deliveries],
            [one.endpoint_version for one in deliveries],
            [one.key for one in deliveries],
            [one.key_window for one in deliveries],
            [one.may_repeat for one in deliveries],
            [one.source for one in deliveries],
            [one.headers for one in deliveries],
            [one.body for one in deliveries],
            [_as_json(one.ignored) for one in deliveries],
            push_deliveries,
            push_images,
            push_digests,
            [one[0] for one in images],
            [one[1] for one in images],
            [one[2] for one in images],
            [one[4] for one in images],
            [one[3] for one in images],
            NO_SUBSCRIPTION,
        )
    except asyncpg.LockNotAvailableError as error:
        raise RowIsLocked from error
    done = [UNDECIDED] * len(deliveries)
    paths = {number: image[0].path for image, number in numbers.items()}
    for number, verdict, again, duplicate_of, deployment_ids, application_ids, ignored, unknown in rows:
        done[number - 1] = Acceptance(
            verdict,
            again,
            duplicate_of,
            tuple(zip(deployment_ids, application_ids, strict=True)) if deployment_ids else (),
            tuple(Ignored(one["reference"], one["reason"]) for one in ignored) if ignored else (),
            tuple((paths[int(image)], lines) for image, lines in unknown.items()) if unknown else (),
        )
    return done


def _as_json(ignored: Sequence[Ignored]) -> str | None:
    if not ignored:
        return None
    return orjson.dumps([{"reference": one.reference, "reason": one.reason} for one in ignored]).decode()


@lru_cache(maxsize=8192)
def _image(repository: Repository, tag: Tag, subscribed: str) -> tuple[str, str, str, str]:
    """Return the repository, the tag, the names of the image, and why a push of it deploys nothing."""
    policies = [
        SubscribedPolicy(Repository.parse(name), TagPolicy(Rule(rule), pattern))
        for name, rule, pattern in (orjson.loads(subscribed) if subscribed else ())
    ]
    (unmatched,) = explain_unmatched([PushEvent(repository, tag)], policies)
    return str(repository), tag, " ".join(_names(repository, tag)), unmatched.reason


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
