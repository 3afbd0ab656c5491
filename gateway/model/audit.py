"""Who acts, and what the audit says of it. It performs no I/O.

Whoever changes something for a person sets ACTOR meanwhile. Each transaction passes it on to the database, whose tables
write down what becomes of their rows: whichever way a change comes, the audit has it.
"""

import json
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import uuid4

Via = Literal["api", "cli"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, from where, and what was asked for. `who` is the key's name, or the user of the command line."""

    via: Via
    who: str
    action: str
    key_id: str | None = None
    address: str | None = None
    call_id: str = field(default_factory=lambda: str(uuid4()))

    def to_json(self) -> str:
        """Return it as the setting gateway.actor has it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


#: for whom this task acts; None is the gateway itself
CURRENT_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Outcome(StrEnum):
    """What became of it."""

    DONE = "done"
    REFUSED = "refused"  # the key may not, or is none
    FAILED = "failed"  # it may, and it could not be done


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of the audit. `before` and `after` hold what was changed; of a secret only that there is one."""

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
