"""A kind of gate that answers what a test tells it to."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.errors import Code
from gateway.model.gates import Candidate, Decision, GateSetting, passed, refused, unknown

KIND = "told"


class Rule(GateRule):
    """The rule of the gate: a name for what it answers, and its longest wait in seconds."""

    key: str = "it"
    wait: float | None = None


PASSES = passed("it may")
REFUSES = refused(Code.GATE_REFUSED, "it may not")
WAITS = unknown(Code.GATE_UNANSWERED, "not yet", ask_again_at=None)


@dataclass
class Told:
    """Tells gates of this kind what to answer, by key; `asked` are the candidates that they were asked about."""

    answers: dict[str, Decision] = field(default_factory=dict)
    asked: list[Candidate] = field(default_factory=list)
    #: run while the gate is asked
    meanwhile: Callable[[], Awaitable[None]] | None = None
    error: Exception | None = None
    #: answers instead, where the answer depends on the image
    choose: Callable[[GateSetting, Candidate], Awaitable[Decision]] | None = None

    async def gather(self, _sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Decision:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.asked.append(candidate)
        if self.choose is not None:
            return await self.choose(setting, candidate)
        answer = self.answers.get(rule.key, PASSES)
        if self.meanwhile is not None:
            await self.meanwhile()
        return answer

    def decide(self, _rule: Rule, facts: Decision, _candidate: Candidate, _now: datetime) -> Decision:
        return facts

    async def invite(self, _sources: Sources, _setting: GateSetting, _rule: Rule, _candidate: Candidate) -> str:
        return "approve it here"

    def gate(self, **more: object) -> Gate:
        return Gate(KIND, Rule, self.gather, self.decide, title="Answer what a test says", **more)  # type: ignore[arg-type]
