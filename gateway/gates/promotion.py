"""The gate `promotion`: run only what another application has proven, by running it well for a time (the soak).

The followed application proves a digest while it is observed to be well with it, through the end of its monitor window;
`gateway.model.soaks` has the clock. The gate compares digests, so the two may use different repositories.

    proven, now or before; or it serves already   passed
    it runs there, or is about to                 unknown, until the end of the soak
    proven, but now it is not well with it        unknown, until it is well
    never ran there, failed, or was rolled back   refused

A digest that was pushed to both at the same time may reach the follower first, so a push of one that never ran is
refused only after a moment. What is promoted is the image alone: the follower keeps its own configuration.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gateway.gates._duration import Duration, format_duration, parse_duration
from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.api_keys import Grants
from gateway.model.errors import Code, InvalidInput, NotFound
from gateway.model.gates import Candidate, Decision, GateSetting, Level, passed, refused, unknown
from gateway.model.reference import Digest
from gateway.model.soaks import Followed
from gateway.store import applications, promotions, resource_owners, soaks
from gateway.store.database import Connection, statement
from gateway.store.gates import Owner
from gateway.store.resource_owners import ResourceKind

KIND = "promotion"

_SOAK = timedelta(minutes=30)
_BEYOND_SOAK = 86_400  # seconds that a deployment waits, beyond the soak
_MAX_WAIT = 400 * 86_400  # seconds
_ARRIVES_WITHIN = timedelta(seconds=60)
_PAUSE = timedelta(seconds=10)  # before the gate is asked again about a clock that is about to reach the soak


class PromotionRule(GateRule):
    """Which application is followed, and for how long it must have run a digest well."""

    #: the followed application: its id; it may be given by its name
    follows: Annotated[str, Field(min_length=1, max_length=128)]
    soak: Duration = _SOAK
    #: `proposal`: nothing is deployed until a person asks for it, by promotion.promote
    mode: Literal["automatic", "proposal"] = "automatic"
    #: seconds that a deployment, or a promotion, waits at most; by default the soak and a day
    wait: Annotated[int, Field(gt=0, le=_MAX_WAIT)]

    @model_validator(mode="before")
    @classmethod
    def _wait_for_the_soak(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("wait") is not None:
            return given
        try:
            soak = parse_duration(given.get("soak", _SOAK))
        except ValueError:
            return given  # the field itself says what is wrong
        return {**given, "wait": int(soak.total_seconds()) + _BEYOND_SOAK}


async def gather(sources: Sources, _setting: GateSetting, rule: PromotionRule, candidate: Candidate) -> Followed | None:
    """Return what is known of the followed application and of this digest there; None if it does not exist."""
    async with statement(sources.pool) as connection:
        now = await soaks.current_time(connection)
        return await soaks.select_followed(connection, rule.follows, candidate.digest, now)


def decide(rule: PromotionRule, followed: Followed | None, candidate: Candidate, now: datetime) -> Decision:
    """Decide about a digest that the follower is about to run."""
    if followed is None:
        return refused(
            Code.NOT_PROVEN, f"it follows application {rule.follows}, which does not exist: set another one in its gate"
        )
    digest, evidence = candidate.digest, describe(rule, followed)
    if candidate.serving == digest:
        return passed(f"{digest} serves already: only its configuration changes", evidence)
    if followed.serving == digest:
        return _serving(rule, followed, digest, now, evidence)
    if followed.is_proven(rule.soak):
        return _proven(rule, followed, digest, evidence)
    return _not_serving(followed, candidate, now, evidence)


def _proven(rule: PromotionRule, followed: Followed, digest: Digest, evidence: Mapping[str, Any]) -> Decision:
    return passed(f"{followed.name} has run {digest} well for {format_duration(rule.soak)}", evidence)


def _serving(
    rule: PromotionRule, followed: Followed, digest: Digest, now: datetime, evidence: Mapping[str, Any]
) -> Decision:
    name = followed.name
    if followed.ending == "rollback":
        return unknown(Code.NOT_PROVEN, f"{name} is about to be rolled back from {digest}", evidence)
    if not followed.is_proven(rule.soak):
        return _soaking(rule, followed, digest, now, evidence)
    if followed.is_ailing:
        return unknown(Code.NOT_PROVEN, f"{name} has proven {digest}, but is {followed.state} now", evidence)
    return _proven(rule, followed, digest, evidence)


def _soaking(
    rule: PromotionRule, followed: Followed, digest: Digest, now: datetime, evidence: Mapping[str, Any]
) -> Decision:
    length = format_duration(rule.soak)
    if (due := followed.due_at(rule.soak)) is None:
        message = f"{followed.name} runs {digest}, but is {followed.state}: its time of {length} begins when it is well"
        return unknown(Code.NOT_PROVEN, message, evidence)
    message = f"{followed.name} has to run {digest} well for {length}: until {due:%Y-%m-%d %H:%M:%S %Z}"
    return unknown(Code.NOT_PROVEN, message, evidence, ask_again_at=max(due, now + _PAUSE))


def _not_serving(followed: Followed, candidate: Candidate, now: datetime, evidence: Mapping[str, Any]) -> Decision:
    digest, name = candidate.digest, followed.name
    if followed.may_arrive:
        return unknown(Code.NOT_PROVEN, f"{name} is about to get {digest}, or may be", evidence)
    is_early = not candidate.deployment.forced and now - candidate.deployment.requested_at < _ARRIVES_WITHIN
    if (why := _disproof(followed)) is None and is_early:
        again = candidate.deployment.requested_at + _ARRIVES_WITHIN
        return unknown(Code.NOT_PROVEN, f"{name} has not run {digest} yet", evidence, ask_again_at=again)
    return refused(Code.NOT_PROVEN, f"{name} has not proven {digest}: {why or 'it never ran it'}", evidence)


def _disproof(followed: Followed) -> str | None:
    """Return why the digest, which does not serve there, is not proven; None if nothing is known of it."""
    soak = followed.soak
    if soak is not None and soak.failed_at is not None:
        return f"{soak.failure} at {soak.failed_at:%Y-%m-%d %H:%M:%S %Z}"
    if followed.failed_deployment is not None:
        return f"deployment {followed.failed_deployment} of it failed"
    if soak is not None:
        return f"it ran it for {soak.longest} at most"
    return None


def describe(rule: PromotionRule, followed: Followed) -> dict[str, Any]:
    """Return what is known, as evidence."""
    soak, due = followed.soak, followed.due_at(rule.soak)
    return {
        "follows": followed.application_id,
        "soakSeconds": rule.soak.total_seconds(),
        "serving": followed.serving,
        "state": followed.state,
        "since": soak.since.isoformat() if soak and soak.since else None,
        "seenAt": soak.seen_at.isoformat() if soak and soak.seen_at else None,
        "longestSeconds": soak.longest.total_seconds() if soak else 0.0,
        "dueAt": due.isoformat() if due else None,
    }


async def prepare(connection: Connection, owner: Owner, rule: PromotionRule, grants: Grants | None) -> PromotionRule:
    """Return the rule with the id of the followed application, which may be given by its name.

    Raises InvalidInput where it must not be followed: unknown to the key, the follower itself, or one that follows it.
    """
    if owner.level is not Level.APPLICATION:
        raise InvalidInput("an application follows another one: set this gate on the application", field="kind")
    followed = await _find_followed(connection, rule.follows, grants)
    await promotions.lock_followers(connection)
    followers = await promotions.select_followers(connection, enabled=False)
    path = [owner.owner_id, followed]
    while path[-1] != path[0] and (onward := followers.get(path[-1])) is not None and len(path) <= len(followers) + 1:
        path.append(str(onward.get("follows")))
    if path[-1] == path[0]:
        raise InvalidInput(f"this is a circle: {' follows '.join(path)}", field="rule.follows")
    return rule.model_copy(update={"follows": followed})


async def _find_followed(connection: Connection, named: str, grants: Grants | None) -> str:
    """Return the id of the named application. Raises InvalidInput, also for one that the key is not for."""
    with suppress(NotFound):
        found = await applications.select_application_id(connection, named)
        place = await resource_owners.select_owner(connection, ResourceKind.APPLICATION, found)
        if grants is None or (
            place is not None and grants.covers(application_id=place.application_id, project_id=place.project_id)
        ):
            return found
    which = "" if grants is None else " that this key is for"
    raise InvalidInput(f"there is no application {named!r}{which}", field="rule.follows")


GATE = Gate(
    KIND,
    PromotionRule,
    gather,
    decide,
    title="Follow another application: run only what it has proven",
    lets_rollbacks_pass=True,
    prepare=prepare,
)
