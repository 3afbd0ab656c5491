"""Ask gates about a candidate: gather the facts of each, all at the same time, and let each decide.

What prevents an answer is unknown, never passed: a registry that is away, a gather that takes too long, a rule that is
no longer valid, and a defect of a gate too, which is logged.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from pydantic import ValidationError

from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.errors import Code, InvalidInput, Postponed
from gateway.model.gates import Candidate, Decision, GateSetting, unknown

_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gate decided. `gate` is None where the gateway does not know its kind, `rule` also where it is invalid."""

    setting: GateSetting
    decision: Decision
    gate: Gate | None = None
    rule: GateRule | None = None
    #: whether it was asked now; else its decision was known
    asked: bool = False


def clock_from(now: datetime) -> Callable[[], datetime]:
    """Return a clock that begins at `now`, a time of the database, so that all gateways agree."""
    began = time.monotonic()
    return lambda: now + timedelta(seconds=time.monotonic() - began)


def parse_rule(gate: Gate, rule: Mapping[str, object]) -> GateRule:
    """Return the rule as its gate reads it. Raises InvalidInput, which names the field."""
    try:
        return gate.rule.model_validate(rule)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        # A misspelt field goes first: what is missing is often what was meant.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        field = ".".join(["rule", *map(str, first["loc"])])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(str(field.alias or name) for name, field in gate.rule.model_fields.items())
            message = f"a gate of kind {gate.kind} has no such field; it has {known or 'none'}"
        raise InvalidInput(message, field=field) from error


async def ask_all(
    sources: Sources,
    gates: Mapping[str, Gate],
    settings: Sequence[GateSetting],
    candidate: Candidate,
    clock: Callable[[], datetime],
    *,
    first_asked: Mapping[str, datetime] | None = None,
) -> list[Answer]:
    """Return the answers in the order of the settings. `first_asked` is by gate; a missing one is asked first now."""
    since = first_asked or {}

    async def one(setting: GateSetting) -> Answer:
        own = replace(candidate, first_asked_at=since.get(setting.gate_id) or clock())
        gate = gates.get(setting.kind)
        if gate is None:
            message = f"this gateway knows no gate of kind {setting.kind}: update it, or remove the gate"
            return Answer(setting, unknown(Code.GATE_UNANSWERED, message), asked=True)
        return await _ask(sources, gate, setting, own, clock)

    return list(await asyncio.gather(*map(one, settings)))


async def _ask(
    sources: Sources, gate: Gate, setting: GateSetting, candidate: Candidate, clock: Callable[[], datetime]
) -> Answer:
    if setting.unreadable is not None:
        return Answer(setting, unknown(Code.GATE_UNANSWERED, setting.unreadable), gate, asked=True)
    try:
        rule = parse_rule(gate, setting.rule)
    except InvalidInput as error:
        message = f"its rule is not valid, set it again: {error.field}: {error}"
        return Answer(setting, unknown(Code.GATE_UNANSWERED, message), gate, asked=True)
    bound = asyncio.timeout(gate.timeout)
    try:
        async with bound:
            facts = await gate.gather(sources, setting, rule, candidate)
        decision = gate.decide(rule, facts, candidate, clock())
    except Postponed as error:
        again = None if error.retry_after is None else clock() + timedelta(seconds=error.retry_after)
        decision = unknown(error.reason.code, error.reason.message, ask_again_at=again)
    except Exception as error:
        if isinstance(error, TimeoutError) and bound.expired():
            message = f"no answer within {gate.timeout:.0f} s"
        else:
            _LOG.exception("A gate failed on a defect", gate=setting.name, kind=setting.kind)
            message = f"the gate failed on a defect of the gateway: {type(error).__name__}"
        decision = unknown(Code.GATE_UNANSWERED, message)
    return Answer(setting, decision, gate, rule, asked=True)
