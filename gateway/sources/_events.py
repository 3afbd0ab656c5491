"""Build push events from the names that registries send: which tags name images, and on which host."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from gateway.model.errors import InvalidInput, TooLarge
from gateway.model.events import Ignored, Notification, PushEvent
from gateway.model.reference import (
    DOCKER_HUB,
    LATEST,
    Digest,
    Domain,
    Reference,
    Repository,
    is_digest,
    parse_domain,
    parse_tag,
    split_domain,
)
from gateway.sources._json import MAX_EVENTS
from gateway.sources._source import Trust

ParsedEvent = PushEvent | Ignored

# Signatures, attestations and referrers of an image are stored under a tag made of its digest:
# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
_ATTACHED = "sha256-"
_LONGEST_ID = 128


def push_event(trust: Trust, *, host: str, path: str, tag: str, digest: str = "") -> ParsedEvent:
    """Return the event for a push of `path:tag` on `host`; raises InvalidInput where the names are not valid.

    A push without a tag, and one of a signature or an attestation, is ignored. An invalid digest is left out.
    """
    if not path:
        raise InvalidInput("no repository is named")
    repository = Repository.of(public_domain(host, trust), path)
    hint = first_digest(digest, tag)
    # Most registries put the digest of an untagged image in the place of its tag.
    if not tag or first_digest(tag):
        return Ignored(str(Reference(repository, digest=hint)), "no tag")
    event = PushEvent(repository, parse_tag(tag), hint)
    if tag.startswith(_ATTACHED):
        return Ignored(str(event.reference), "attached to an image, none itself")
    return event


def image_push_event(image: str, trust: Trust, *, tag: str = "", digest: str = "") -> ParsedEvent:
    """Return the event for a push of `image`, as people write it: `ghcr.io/acme/web:1.2`.

    `tag` and `digest` take precedence over those in the name.
    """
    name, _, own_digest = image.rpartition("://")[2].partition("@")
    name, own_tag = split_tag(name)
    host, path = split_domain(name)
    known = first_digest(digest.rpartition("@")[2], own_digest)
    tag = tag or own_tag or ("" if known else LATEST)
    return push_event(trust, host=host or trust.host or DOCKER_HUB, path=path, tag=tag, digest=known or "")


def ignored_event(reason: str, trust: Trust, *, host: str, path: str, tag: str = "", digest: str = "") -> Ignored:
    """Return an event that deploys nothing, with the image's name as far as it is valid, for the inbox."""
    try:
        event = push_event(trust, host=host, path=path, tag=tag, digest=digest)
    except InvalidInput:
        return Ignored("", reason)
    return Ignored(str(event.reference), reason)


def notification(events: Iterable[ParsedEvent], *, ids: Sequence[str] = (), timeless: bool = False) -> Notification:
    """Return all events of one request. Where a tag is pushed twice, the last event counts.

    `ids` are the ids that the sender gave the events in the signed body; together they identify the delivery. With
    `timeless`, the same body without ids may be another push. Raises TooLarge for too many events.
    """
    pushed: dict[tuple[str, str, str], PushEvent] = {}
    ignored: dict[Ignored, None] = {}
    for number, one in enumerate(events):
        if number >= MAX_EVENTS:
            raise TooLarge(f"one delivery reports at most {MAX_EVENTS} pushes")
        if isinstance(one, PushEvent):
            pushed[one.repository.domain, one.repository.path, one.tag] = one
        else:
            ignored[one] = None
    event_id = _event_id(ids)
    return Notification(tuple(pushed.values()), tuple(ignored), event_id, timeless and event_id is None)


def public_domain(named: str, trust: Trust) -> Domain:
    """Return the registry's domain as applications name it, where the sender names it `named`.

    Raises InvalidInput where neither the sender nor the endpoint names a host.
    """
    if trust.host and (not named or not trust.aliases or _is_alias(named, trust.aliases)):
        return trust.host
    if not named:
        raise InvalidInput("the delivery does not name the registry's host: set the endpoint's host")
    return parse_domain(named)


def first_digest(*candidates: str) -> Digest | None:
    """Return the first candidate that is a digest. Registries send empty and invalid ones; a digest is only a hint."""
    return next((Digest(one) for one in candidates if is_digest(one)), None)


def split_address(address: str) -> tuple[str, str]:
    """Split `[scheme://]host[/path]` into host and path."""
    host, _, path = address.rpartition("://")[2].partition("/")
    return host, path


def split_tag(name: str) -> tuple[str, str]:
    """Split `path[:tag][@digest]` into path and tag."""
    head, slash, last = name.partition("@")[0].rpartition("/")
    last, _, tag = last.partition(":")
    return head + slash + last, tag


def is_image(media_type: str) -> bool:
    """Tell whether a media type is that of an image, and not of a chart or another artifact. An empty one counts."""
    return not media_type or ".image." in media_type or ".distribution.manifest." in media_type


def quote(word: str) -> str:
    """Return a sender's text in quotes, shortened and printable."""
    return repr(word[:_LONGEST_ID])


def _is_alias(named: str, aliases: Iterable[str]) -> bool:
    return named.lower() in {alias.lower() for alias in aliases}


def _event_id(ids: Sequence[str]) -> str | None:
    """Return one id for all events, None where the ids do not identify them: then the body's hash does."""
    # Some senders give an event no id, or several events the same id.
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        return None
    if len(ids) == 1 and len(ids[0]) <= _LONGEST_ID and ids[0].isprintable():
        return ids[0]
    # An id from a header may hold bytes that are not text.
    return "sha256:" + sha256("\n".join(ids).encode(errors="surrogatepass")).hexdigest()
