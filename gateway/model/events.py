"""The content of a notification from a registry."""

from dataclasses import dataclass

from gateway.model.errors import truncate
from gateway.model.reference import Digest, Reference, Repository, Tag

_MAX_LENGTH = 1000  # characters


@dataclass(frozen=True, slots=True)
class PushEvent:
    """A tag was pushed. `digest` is a hint, None if the registry does not send it."""

    repository: Repository
    tag: Tag
    digest: Digest | None = None

    @property
    def reference(self) -> Reference:
        return Reference(self.repository, self.tag)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A part of a notification that deploys nothing. `reference` is "" if unknown. Both texts fit into the database."""

    reference: str
    reason: str

    def __post_init__(self) -> None:
        for name in ("reference", "reason"):
            object.__setattr__(self, name, truncate(getattr(self, name), _MAX_LENGTH))


@dataclass(frozen=True, slots=True)
class Notification:
    """The content of one request. `event_id` comes from the signed body, never from a header."""

    events: tuple[PushEvent, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    event_id: str | None = None
    #: there is neither an id nor a time in it, so identical bytes may be a new push
    may_repeat: bool = False
    #: the signature of the body covers no time, so anyone who has seen the request can replay it
    signed_without_time: bool = False
    #: it names no image: at a deploy token, the application's image is meant
    names_no_image: bool = False
