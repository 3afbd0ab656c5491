"""What a gate is: the form of its rule, how its facts are gathered, and how they are judged.

    class Rule(GateRule):
        keys: list[str]

    async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Facts: ...

    def decide(rule: Rule, facts: Facts, candidate: Candidate, now: datetime) -> Decision: ...

    GATE = Gate("signature", Rule, gather, decide, title="Require a signature")

`gather` performs the I/O, bounded in time and size. It raises nothing but `Postponed`: then the verdict is unknown,
with that error's reason. `decide` is pure: the same facts give the same decision.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from gateway.config import Settings
from gateway.model.api_keys import Grants
from gateway.model.gates import Candidate, Decision, GateSetting
from gateway.registry.client import RegistryClient
from gateway.store.database import Connection, Pool
from gateway.store.encryption import Vault
from gateway.store.gates import Owner

if TYPE_CHECKING:
    from gateway.gates.scan import Scans

#: seconds that a deployment waits at an unknown verdict, unless its gate says otherwise
LONGEST_WAIT = 86_400.0


class GateRule(BaseModel):
    """The rule of a gate, as it is stored and shown. Unknown fields are refused: a misspelt one would not protect."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        defer_build=True,
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts come from."""

    pool: Pool
    vault: Vault
    registry: RegistryClient
    settings: Settings
    #: scans of which few run at once; None: those of this gateway
    scans: "Scans | None" = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A kind of gate. Its types are those of its own module: `gather` and `decide` get its rule."""

    kind: str
    rule: type[GateRule]
    gather: Callable[[Sources, GateSetting, Any, Candidate], Awaitable[Any]]
    decide: Callable[[Any, Any, Candidate, datetime], Decision]
    #: what it does, in a few words
    title: str
    #: whether it has a secret: where none is given, one is made, and shown once
    has_secret: bool = False
    #: whether a rollback to a version that has served passes without being asked
    lets_rollbacks_pass: bool = False
    #: seconds that a deployment waits at an unknown verdict before it fails; a rule's own `wait` goes first
    longest_wait: float = LONGEST_WAIT
    #: seconds that `gather` may take; after that the verdict is unknown
    timeout: float = 60.0
    #: whether it depends on the time alone: returns when it opens, now if it is open, None if it never does
    opens: Callable[[Any, datetime], datetime | None] | None = None
    #: whether it waits for a person; returns what the alert says to that person, once for each digest
    invite: Callable[[Sources, GateSetting, Any, Candidate], Awaitable[str]] | None = None
    #: completes a rule in the transaction that stores it, for the one who is to own the gate and the grants of a
    #: restricted key; raises InvalidInput or Conflict where such a rule must not be set there
    prepare: Callable[[Connection, Owner, Any, Grants | None], Awaitable[GateRule]] | None = None

    def wait_of(self, rule: GateRule) -> float:
        """Return the seconds that a deployment waits here before it fails."""
        own = getattr(rule, "wait", None)
        return self.longest_wait if own is None else float(own)
