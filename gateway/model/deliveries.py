"""Requests to a webhook, and their outcome. It performs no I/O."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from itertools import islice

from gateway.model.deployments import Status
from gateway.model.errors import truncate
from gateway.model.events import Ignored

_SECRET_NAME = re.compile(r"assert|auth|bearer|cookie|credential|jwt|key|passw|secret|sign|token", re.IGNORECASE)
# Proxies add headers with the requested URL, which contains the token.
_WEBHOOK_PATH = "/webhooks/"
_REMOVED = "(removed)"
_MAX_HEADERS = 64
_MAX_HEADER_LENGTH = 1024
_MAX_NAME_LENGTH = 128
_MIN_SECRET_LENGTH = 6  # characters; a shorter secret would match anywhere

_DEPLOYED = frozenset({Status.SUCCEEDED, Status.UNCHANGED})
_UNFINISHED = frozenset({Status.QUEUED, Status.RUNNING})


class Verdict(StrEnum):
    """What the gateway made of a delivery."""

    QUEUED = "queued"  # a deployment of it is queued or runs
    DEPLOYED = "deployed"
    SUPERSEDED = "superseded"  # all its deployments, by newer pushes
    FAILED = "failed"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class CausedDeployment:
    """A deployment that a delivery caused or joined."""

    deployment_id: str
    application_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the inbox, without the body."""

    delivery_id: str
    endpoint_id: str | None
    source: str
    received_at: datetime
    #: the verdict when it was received: queued, ignored, duplicate or rejected
    initial_verdict: Verdict
    ignored: tuple[Ignored, ...]
    duplicate_of: str | None
    replay_of: str | None
    #: how many identical rejected requests this row counts
    times: int
    #: its signature or token did not match
    unauthenticated: bool
    headers: Mapping[str, str]
    size: int
    #: outcomes of its deployments that have been pruned
    pruned_outcomes: tuple[Status, ...]
    caused: tuple[CausedDeployment, ...]

    @property
    def verdict(self) -> Verdict:
        """The current verdict. With several deployments, the worst outcome counts."""
        states = {one.status for one in self.caused} | set(self.pruned_outcomes)
        if not states or self.initial_verdict is Verdict.IGNORED:
            return self.initial_verdict
        if states & _UNFINISHED:
            return Verdict.QUEUED
        if rest := states - _DEPLOYED - {Status.SUPERSEDED}:
            return Verdict.FAILED if rest - {Status.CANCELLED} else Verdict.SUPERSEDED
        return Verdict.DEPLOYED if states & _DEPLOYED else Verdict.SUPERSEDED


def redact_headers(headers: Mapping[str, str], secrets: Iterable[str] = ()) -> dict[str, str]:
    """Return the headers of a request without credentials, and without values that contain one of `secrets`."""
    known = [_WEBHOOK_PATH, *(secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH)]
    shown: dict[str, str] = {}
    for name, value in islice(headers.items(), _MAX_HEADERS):
        shown_name, is_secret = _shown_name(name)
        if not is_secret:
            for secret in known:
                if secret in value:
                    is_secret = True
                    break
        shown[shown_name] = _REMOVED if is_secret else truncate(value, _MAX_HEADER_LENGTH)
    return shown


def _shown_name(name: str) -> tuple[str, bool]:
    """Return a header's name as it is shown, and whether its value is a secret."""
    if len(name) <= _MAX_NAME_LENGTH:
        return _shown_short_name(name)
    return truncate(name, _MAX_NAME_LENGTH), _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=1024)
def _shown_short_name(name: str) -> tuple[str, bool]:
    return truncate(name, _MAX_NAME_LENGTH), _SECRET_NAME.search(name) is not None
