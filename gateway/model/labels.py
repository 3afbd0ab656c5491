"""What the labels of a container or service ask of the gateway. It performs no I/O.

    gateway.enable   true: adopt it; false: leave it alone
    gateway.follow   stable | ghcr.io/acme/web:stable | [REPOSITORY] POLICY [PATTERN], for example: semver ^1.2
    gateway.order    start-first | stop-first | auto
    gateway.name     the application's name

The labels of Watchtower are read where a setting says so: https://containrrr.dev/watchtower/container-selection/

>>> request = read({"gateway.enable": "true", "gateway.follow": "semver ^1.2"}, watchtower=False)
>>> request.enabled, str(request.follow.policy)
(True, 'semver ^1.2')
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.model.configuration import Order
from gateway.model.errors import InvalidInput
from gateway.model.reference import Reference, Repository
from gateway.model.tag_policies import Rule, TagPolicy

_PREFIX = "gateway."
ENABLE, _FOLLOW, _ORDER, _NAME = "gateway.enable", "gateway.follow", "gateway.order", "gateway.name"
_KNOWN = (ENABLE, _FOLLOW, _ORDER, _NAME)
#: what no label may say: it proves who creates containers on an engine, and nothing about a project's owner
_PLACES = frozenset({"gateway.project", "gateway.environment"})
_MOVE = "a label puts no application into a project: leave it out, and move the application with application.move"

_WATCHTOWER = "com.centurylinklabs.watchtower"
WATCHTOWER_ENABLE = f"{_WATCHTOWER}.enable"
_MONITOR_ONLY, _NO_PULL = f"{_WATCHTOWER}.monitor-only", f"{_WATCHTOWER}.no-pull"
_HOOK, _PRE_UPDATE = f"{_WATCHTOWER}.lifecycle.", f"{_WATCHTOWER}.lifecycle.pre-update"
_ORIGINAL_IMAGE = "com.centurylinklabs.zodiac.original-image"
_OF_WATCHTOWER = "com.centurylinklabs."

#: labels of Watchtower that change nothing here, and what does
_INSTEAD = {
    f"{_WATCHTOWER}.scope": "a gateway adopts every scope",
    f"{_WATCHTOWER}.stop-signal": "set the stop signal of the container itself (--stop-signal, stop_signal)",
    f"{_WATCHTOWER}.depends-on": "a group deploys applications in an order",
}
_NO_HOOKS = "no command runs in the container"

# As Go's strconv.ParseBool, which Watchtower reads them with.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_MAX_VALUE, _MAX_NAME, _MAX_QUOTED, _MAX_LISTED = 1000, 255, 60, 5  # characters; labels that a message names
_WORDS = 2  # of "REPOSITORY POLICY"


@dataclass(frozen=True, slots=True)
class Follow:
    """The pushes that deploy it. Without a repository: those of its own image's."""

    policy: TagPolicy
    repository: Repository | None = None


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """What labels ask for. `order` is None where no label says; "auto" leaves the choice to the gateway."""

    enabled: bool
    name: str | None = None
    follow: Follow | None = None
    order: Order | str | None = None
    #: whether pushes deploy it
    auto_deploy: bool = True
    #: the labels of Watchtower without an effect here, each with what has one
    not_carried: tuple[str, ...] = ()


def is_enabled(labels: Mapping[str, str]) -> bool:
    """Tell whether a label asks for adoption: a gateway's own, or else Watchtower's."""
    return labels.get(ENABLE, labels.get(WATCHTOWER_ENABLE)) in _TRUE


def is_declined(labels: Mapping[str, str], *, watchtower: bool) -> bool:
    """Tell whether the labels say plainly that it is to be left alone, or nothing at all."""
    value = labels.get(ENABLE, labels.get(WATCHTOWER_ENABLE) if watchtower else None)
    return value is None or value in _FALSE


def fingerprint(labels: Mapping[str, str], *, watchtower: bool) -> str:
    """Return a hash that differs where labels that are read differ."""
    prefixes = (_PREFIX, _OF_WATCHTOWER) if watchtower else (_PREFIX,)
    relevant = sorted((name, value) for name, value in labels.items() if name.startswith(prefixes))
    return hashlib.sha256(json.dumps(relevant).encode()).hexdigest()


def read(labels: Mapping[str, str], *, watchtower: bool) -> LabelRequest | None:
    """Return what the labels ask for; None if they ask for nothing.

    Raises InvalidInput, which names each label that is unknown or has a value that cannot be.
    """
    problems: list[str] = []
    theirs = {name: value for name, value in labels.items() if name.startswith(_OF_WATCHTOWER)} if watchtower else {}
    own = _boolean(labels, ENABLE, problems)
    enabled = own if own is not None else _boolean(theirs, WATCHTOWER_ENABLE, problems)
    if enabled is None and not problems:
        return None
    if enabled is False:
        return LabelRequest(enabled=False)
    problems += _unknown(labels)
    name = _name(labels, problems)
    follow, order = _follow(labels, problems), _order(labels, problems)
    if own is None:
        problems += _forbidding(theirs, problems)
    monitor_only = _boolean(theirs, _MONITOR_ONLY, problems)
    if problems:
        raise InvalidInput("; ".join(problems))
    return LabelRequest(
        enabled=True,
        name=name,
        follow=follow,
        order=order,
        auto_deploy=not monitor_only,
        not_carried=tuple(_not_carried(theirs)),
    )


def _quoted(value: str) -> str:
    return repr(value[:_MAX_QUOTED] + "…" if len(value) > _MAX_QUOTED else value)


def _boolean(labels: Mapping[str, str], label: str, problems: list[str]) -> bool | None:
    value = labels.get(label)
    if value is None or value in _TRUE | _FALSE:
        return None if value is None else value in _TRUE
    problems.append(f"{label} is {_quoted(value)}, and must be true or false")
    return None


def _unknown(labels: Mapping[str, str]) -> list[str]:
    found = sorted(name for name in labels if name.startswith(_PREFIX) and name not in _KNOWN)
    more = f", and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    listed = ", ".join(_quoted(name)[1:-1] for name in found[:_MAX_LISTED])
    instead = f". {_MOVE}" if _PLACES & set(found) else ""
    return [f"no such label is read: {listed}{more}; there are {', '.join(_KNOWN)}{instead}"] if found else []


def _name(labels: Mapping[str, str], problems: list[str]) -> str | None:
    name = labels.get(_NAME)
    if name is None or (0 < len(name) <= _MAX_NAME and name.isprintable() and name.strip() == name):
        return name
    problems.append(f"{_NAME} is {_quoted(name)}, and must be 1 to {_MAX_NAME} printable characters")
    return None


def _order(labels: Mapping[str, str], problems: list[str]) -> Order | str | None:
    order = labels.get(_ORDER)
    if order is None or order == "auto":
        return order
    if order in set(Order):
        return Order(order)
    problems.append(f"{_ORDER} is {_quoted(order)}, and must be {', '.join(Order)} or auto")
    return None


def _follow(labels: Mapping[str, str], problems: list[str]) -> Follow | None:
    text = labels.get(_FOLLOW)
    if text is None:
        return None
    try:
        return _parse_follow(text)
    except InvalidInput as error:
        problems.append(f"{_FOLLOW} is {_quoted(text)}: {error}")
        return None


def _parse_follow(text: str) -> Follow:
    if len(text) > _MAX_VALUE:
        raise InvalidInput(f"it has at most {_MAX_VALUE} characters")
    if not text.isprintable():
        raise InvalidInput("it has characters that cannot be printed")
    words = text.split()
    if words and words[0] in set(Rule):
        return Follow(TagPolicy.parse(words[0], " ".join(words[1:])))
    if len(words) >= _WORDS and words[1] in set(Rule):
        return Follow(TagPolicy.parse(words[1], " ".join(words[2:])), Repository.parse(words[0]))
    if len(words) != 1:
        raise InvalidInput(
            "it must be a tag, an image with a tag, or [REPOSITORY] POLICY [PATTERN] with a policy of "
            f"{', '.join(Rule)}"
        )
    if not {"/", ":", "@"} & set(text):
        return Follow(TagPolicy.parse(Rule.EXACT, words[0]))
    reference = Reference.parse(words[0])
    if reference.tag is None or reference.pinned:
        raise InvalidInput("a digest never moves: name a tag")
    return Follow(TagPolicy.parse(Rule.EXACT, reference.tag), reference.repository)


# -- of Watchtower


def _forbidding(labels: Mapping[str, str], problems: list[str]) -> Iterator[str]:
    """Yield why a container that Watchtower alone enables is left alone: an update would not be what it asks for."""
    cure = f"to adopt it all the same, set {ENABLE}=true"
    if _WATCHTOWER in labels:
        yield f"it is Watchtower itself, by the label {_WATCHTOWER}"
    if _boolean(labels, _NO_PULL, problems):
        yield f"{_NO_PULL} asks for no pull, and the gateway deploys what a registry has; {cure}"
    if labels.get(_PRE_UPDATE):
        yield f"{_PRE_UPDATE} must run before an update, and the gateway runs no commands in containers; {cure}"
    if labels.get(_ORIGINAL_IMAGE):
        yield f"{_ORIGINAL_IMAGE} names its image; set {ENABLE}=true and {_FOLLOW} instead"


def _not_carried(labels: Mapping[str, str]) -> Iterator[str]:
    carried = (WATCHTOWER_ENABLE, _MONITOR_ONLY)
    for count, label in enumerate(sorted(labels.keys() - carried)):
        if count == _MAX_LISTED * 4:
            yield "and more"
            return
        instead = _INSTEAD.get(label) or (_NO_HOOKS if label.startswith(_HOOK) else "it has no meaning here")
        yield f"{_quoted(label)[1:-1]}: {instead}"
