"""Who acts, and the rows of the audit log. It performs no I/O.

Code that acts for a person sets CURRENT_ACTOR. Each transaction passes it to the database, where triggers record every
change of a row. No change can bypass the audit log.
"""

import json
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import uuid4

#: `labels`: what the labels of a container or service asked for
Via = Literal["api", "cli", "labels"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, from where, with which request. `who` is the name of an API key, or a user of the command line."""

    via: Via
    who: str
    action: str
    key_id: str | None = None
    address: str | None = None
    call_id: str = field(default_factory=lambda: str(uuid4()))

    def to_json(self) -> str:
        """Return the value of the PostgreSQL setting gateway.actor."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


#: for whom the current task acts; None: the gateway itself
CURRENT_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Outcome(StrEnum):
    """How a call or command ended."""

    DONE = "done"
    REFUSED = "refused"  # the key may not, or is none
    FAILED = "failed"  # it may, and it could not be done


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit log. `before` and `after` hold the changed fields; of a secret, only whether one is set."""

    number: int
    at: datetime
    call_id: str
    via: Via
    who: str
    key_id: str | None
    address: str | None
    action: str
    noun: str | None
    target: str | None
    target_name: str | None
    application_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    outcome: Outcome
    detail: str
    times: int


#: columns with which the gateway keeps track of its own work: they say nothing about what a person changed
_INTERNAL = frozenset({
    "claimed_by", "lease_until", "marked_to", "takeovers", "defects", "wakes", "wait_length", "waits_for",
    "moves_subscription", "ran", "object_id", "spec_hash", "passed_gates_at",
})  # fmt: skip
#: columns that are called otherwise where people see them
_PLAIN_NAMES = {
    "key_hash": "key",
    "token_hash": "path",
    "former_token_hash": "previous_path",
    "former_secret": "previous_secret",
    "former_until": "previous_until",
}


def plain_fields(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the changed fields of a row as people see them: without the internal ones."""
    if stored is None:
        return None
    return {_PLAIN_NAMES.get(name, name): value for name, value in stored.items() if name not in _INTERNAL}
