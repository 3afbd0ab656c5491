"""What is true of a push whichever registry tells it: which tags name images, and on which host."""

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
    parse_digest,
    parse_domain,
    parse_tag,
    split_domain,
)
from gateway.sources._json import MOST
from gateway.sources._source import Trust

ParsedEvent = PushEvent | Ignored

# Signatures, attestations and referrers of an image are kept under its digest, written as a tag:
# https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
_ATTACHED = "sha256-"
_LONGEST_ID = 128


def push_event(trust: Trust, *, host: str, path: str, tag: str, digest: str = "") -> ParsedEvent:
    """Return what a push of `tag` means; raises InvalidInput where it names nothing that can be."""
    if not path:
        raise InvalidInput("no repository is named")
    repository = Repository.of(public_domain(host, trust), path)
    hint = first_digest(digest, tag)
    # Where an image has no tag, most registries write its digest in the tag's place.
    if not tag or first_digest(tag):
        return Ignored(str(Reference(repository, digest=hint)), "no tag")
    event = PushEvent(repository, parse_tag(tag), hint)
    if tag.startswith(_ATTACHED):
        return Ignored(str(event.reference), "attached to an image, none itself")
    return event


def image_push_event(image: str, trust: Trust, *, tag: str = "", digest: str = "") -> ParsedEvent:
    """Return what a push of `image` means, named as a person would name it; `tag` and `digest` go before its own."""
    name, _, own_digest = image.rpartition("://")[2].partition("@")
    name, own_tag = split_tag(name)
    host, path = split_domain(name)
    known = first_digest(digest.rpartition("@")[2], own_digest)
    tag = tag or own_tag or ("" if known else LATEST)
    return push_event(trust, host=host or trust.host or DOCKER_HUB, path=path, tag=tag, digest=known or "")


def ignored_event(reason: str, trust: Trust, *, host: str, path: str, tag: str = "", digest: str = "") -> Ignored:
    """What else happened to an image, named as far as it is known: nothing will be done with the name."""
    try:
        said = push_event(trust, host=host, path=path, tag=tag, digest=digest)
    except InvalidInput:
        return Ignored("", reason)
    return Ignored(str(said.reference), reason)


def notification(said: Iterable[ParsedEvent], *, ids: Sequence[str] = (), timeless: bool = False) -> Notification:
    """Gather what one request says; of a tag told twice the last word counts, in the first one's place.

    Raises TooLarge where it says too much.
    """
    events: dict[Reference, PushEvent] = {}
    ignored: dict[Ignored, None] = {}
    for number, one in enumerate(said):
        if number >= MOST:
            raise TooLarge(f"one delivery tells at most {MOST} pushes")
        if isinstance(one, PushEvent):
            events[one.reference] = one
        else:
            ignored[one] = None
    event_id = _event_id(ids)
    return Notification(tuple(events.values()), tuple(ignored), event_id, timeless and event_id is None)


def public_domain(named: str, trust: Trust) -> Domain:
    """Return the registry's domain as applications name it, where the sender calls it `named`."""
    if trust.host and (not named or not trust.aliases or _is_alias(named, trust.aliases)):
        return trust.host
    if not named:
        raise InvalidInput("the registry's host is not told: set the endpoint's host")
    return parse_domain(named)


def first_digest(*candidates: str) -> Digest | None:
    """Return the first that is a digest: registries send empty ones and worse, and it is only a hint."""
    for candidate in candidates:
        try:
            return parse_digest(candidate)
        except InvalidInput:
            continue
    return None


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
    """Tell images from charts and other artifacts; what is not told is taken for an image."""
    return not media_type or ".image." in media_type or ".distribution.manifest." in media_type


def quoted(word: str) -> str:
    """What a sender wrote, fit to be shown and stored."""
    return repr(word[:_LONGEST_ID])


def _is_alias(named: str, aliases: Iterable[str]) -> bool:
    return named.lower() in {alias.lower() for alias in aliases}


def _event_id(ids: Sequence[str]) -> str | None:
    """Return one key for all; none where the ids are no key, then the body's hash stands for it."""
    # Some senders give no id to a part, or one id to several.
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        return None
    if len(ids) == 1 and len(ids[0]) <= _LONGEST_ID and ids[0].isprintable():
        return ids[0]
    # A header's id may hold bytes that are no text.
    return "sha256:" + sha256("\n".join(ids).encode(errors="surrogatepass")).hexdigest()
