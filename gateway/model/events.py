"""What a registry told us, as values."""

from dataclasses import dataclass

from gateway.model.errors import truncate
from gateway.model.reference import Digest, Reference, Repository, Tag

_MAX_LENGTH = 1000  # characters of what is said of a part


@dataclass(frozen=True, slots=True)
class PushEvent:
    """A tag now names an image. `digest` is a hint, absent where the registry does not say."""

    repository: Repository
    tag: Tag
    digest: Digest | None = None

    @property
    def reference(self) -> Reference:
        return Reference(self.repository, self.tag)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A part of a notification that deploys nothing; `reference` as far as it is known, else "". It can be stored."""

    reference: str
    reason: str

    def __post_init__(self) -> None:
        for name in ("reference", "reason"):
            object.__setattr__(self, name, truncate(getattr(self, name), _MAX_LENGTH))


@dataclass(frozen=True, slots=True)
class Notification:
    """All that one request says. `event_id` comes from the signed body, never from a header."""

    events: tuple[PushEvent, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    event_id: str | None = None
    #: without an id, nothing in it tells one push from the next: the same bytes again may well be another one
    may_repeat: bool = False
    #: the body proves itself by a signature, without a time: whoever has seen it can send it again for ever
    signed_without_time: bool = False
    #: it names no image: what is configured is meant, where it came to an application's own address
    names_no_image: bool = False
