"""The gate `maturity`: deploy a digest only when it has been out for a time, so that others meet its trouble first.

One clock a digest of a repository, in the database: no redelivery, restart, other gateway, other application or new tag
starts it anew. It begins when a registry first answered with the digest: to this gate, to the poller, or to a
deployment of the application. What the image says of itself, such as `created` in its configuration, is never believed:
whoever builds the image writes it. Nor is the time in a webhook, which may name a digest that is not out yet.
`trust: registry` also believes the time at which the registry says that it stored the manifest (Last-Modified).
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.gates._duration import MOST_WAIT, Duration, format_duration
from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.errors import Code, RolloutError
from gateway.model.gates import Candidate, Decision, GateSetting, passed, unknown
from gateway.model.reference import Reference
from gateway.store import first_seen
from gateway.store.database import statement

_SPARE = timedelta(days=1)  # after it is old enough, a deployment may still wait so long for the answer
_LONGEST_WAIT = timedelta(days=14)
_FOUND = 200
# No registry of images is older: an earlier time is a constant that stands for none.
_FIRST_REGISTRY = datetime(2013, 3, 1, tzinfo=UTC)


class Rule(GateRule):
    """`age` is how long the digest must have been out; `trust` says who tells since when.

    `wait` is the longest wait, in seconds; it is longer than `age`.
    """

    age: Duration
    trust: Literal["firstSeen", "registry"] = "firstSeen"
    own_wait: Annotated[float | None, Field(gt=0, le=MOST_WAIT, alias="wait")] = None

    @property
    def wait(self) -> float:
        return self.own_wait or max(_LONGEST_WAIT, self.age + _SPARE).total_seconds()

    @model_validator(mode="after")
    def _check_wait(self) -> "Rule":
        if self.own_wait is not None and self.own_wait <= self.age.total_seconds():
            raise ValueError("wait must be longer than age, or no new image would ever pass; leave it out")
        return self


@dataclass(frozen=True, slots=True)
class Facts:
    """Since when the digest has been out, and the time of the clock that says so: the database's."""

    first_seen_at: datetime
    now: datetime
    #: what the registry says, None if it was not asked or says nothing that can be believed
    stored_at: datetime | None = None

    @property
    def out_since(self) -> datetime:
        return min(self.first_seen_at, self.stored_at or self.first_seen_at)


async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Facts:
    _ = setting
    repository = candidate.reference.repository
    async with statement(sources.pool) as connection:
        found = await first_seen.select_first_seen(
            connection, repository, candidate.digest, candidate.application.application_id
        )
    if rule.trust != "registry" or found.seen_at + rule.age <= found.now:
        return Facts(found.seen_at, found.now)
    stored_at = None
    with suppress(RolloutError):  # then only what was seen here counts, which never passes too early
        answer = await sources.registry.head_manifest(
            Reference(repository, None, candidate.digest), candidate.login, etag=None
        )
        if answer.status == _FOUND:
            stored_at = _believable(answer.headers.get("Last-Modified", ""), found.now)
    return Facts(found.seen_at, found.now, stored_at)


def _believable(last_modified: str, now: datetime) -> datetime | None:
    try:
        at = parsedate_to_datetime(last_modified)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at if _FIRST_REGISTRY < at <= now else None


def decide(rule: Rule, facts: Facts, candidate: Candidate, now: datetime) -> Decision:
    since, due = facts.out_since, facts.out_since + rule.age
    wanted = format_duration(rule.age)
    evidence = {
        "firstSeenAt": facts.first_seen_at.isoformat(),
        "storedAt": facts.stored_at.isoformat() if facts.stored_at else None,
        "matureAt": due.isoformat(),
    }
    if candidate.serving == candidate.digest:
        return passed(f"{candidate.digest} serves already", evidence)
    if due <= facts.now:
        return passed(
            f"{candidate.digest} has been out since {since:%Y-%m-%d %H:%M} UTC, for {wanted} at least", evidence
        )
    return unknown(
        Code.TOO_NEW,
        f"{candidate.digest} has been out since {since:%Y-%m-%d %H:%M} UTC, and must be for {wanted}:"
        f" until {due:%Y-%m-%d %H:%M} UTC",
        evidence,
        # The clock of this machine may differ from the database's.
        ask_again_at=now + (due - facts.now),
    )


GATE = Gate(
    "maturity",
    Rule,
    gather,
    decide,
    title="Deploy only what has been out for a time",
    lets_rollbacks_pass=True,
    longest_wait=_LONGEST_WAIT.total_seconds(),
)
