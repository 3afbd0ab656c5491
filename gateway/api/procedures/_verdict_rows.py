"""Rows of what gates answered."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from gateway.api.procedures._response import Moment, Response
from gateway.model.errors import Code
from gateway.store.gate_verdicts import GateVerdict, Override

if TYPE_CHECKING:  # it loads what gates ask
    from gateway.gates.asking import Answer

VerdictWord = Literal["passed", "refused", "unknown"]


class GateAnswer(Response):
    """What a gate answered about an image."""

    gate_id: str
    name: str
    kind: str
    verdict: VerdictWord
    code: Code
    message: str
    remedy: str
    evidence: Annotated[dict[str, Any], Field(description="The facts that led to it; they depend on the kind.")]
    ask_again_at: Moment | None

    @classmethod
    def from_answer(cls, answer: "Answer") -> Self:
        setting, decision = answer.setting, answer.decision
        return cls.make(
            decision,
            gate_id=setting.gate_id,
            name=setting.name,
            kind=setting.kind,
            message=decision.reason.message,
            remedy=decision.reason.remedy,
            evidence=dict(decision.evidence),
        )


class VerdictRow(GateAnswer):
    """The last answer of a gate about a deployment."""

    digest: str
    first_asked_at: Annotated[
        Moment, Field(description="Since when it has been asked about this digest. Its longest wait counts from then.")
    ]
    asked_at: Moment
    true_until: Annotated[
        Moment | None, Field(description="Until then a later deployment of the same takes the verdict over.")
    ]
    overridden_by: Annotated[str | None, Field(description="Who let the deployment pass.")]

    @classmethod
    def from_verdict(cls, verdict: GateVerdict, overrides: Iterable[Override]) -> Self:
        by = [one.overridden_by for one in overrides if (one.gate_id, one.digest) == (verdict.gate_id, verdict.digest)]
        return cls.make(
            verdict,
            code=verdict.reason.code,
            message=verdict.reason.message,
            remedy=verdict.reason.remedy,
            evidence=dict(verdict.evidence),
            overridden_by=next(iter(by), None),
        )
