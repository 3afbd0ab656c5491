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
    application_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    outcome: Outcome
    detail: str
    times: int
