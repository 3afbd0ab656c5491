"""What trusted signers have signed about an image, and the decision when that does not suffice."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.gates._claims import Claims
from gateway.gates._cosign import Invalid, Signed, examine
from gateway.gates._platforms import own_manifest
from gateway.gates._signers import Signers
from gateway.gates.gate import Sources
from gateway.model.configuration import RuntimeKind
from gateway.model.errors import Code, Reason, RolloutError
from gateway.model.gates import Candidate, Decision, GateSetting, refused, unknown
from gateway.model.reference import Digest
from gateway.registry.attached import Attached, Wanted
from gateway.store import gate_verdicts
from gateway.store.database import statement

# What is late is looked for at growing intervals, the last time at the end of the wait.
_SHORTEST, _PART = timedelta(seconds=3), 0.5
_NAMED = 5  # reasons in a message


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found and verified, by the digest it was found for. With `faults` or `left_out` there may be more."""

    signed: Mapping[Digest, tuple[Signed, ...]]
    invalid: tuple[Invalid, ...] = ()
    faults: tuple[Reason, ...] = ()
    left_out: int = 0
    #: seconds, if the registry named a time
    retry_after: float | None = None
    #: the evidence of the last answer about this digest
    before: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, objection: Callable[[Claims, Digest], str]) -> tuple[list[Signed], list[Invalid]]:
        """Return what counts, and what does not with the reasons. `objection` says why claims do not count, else ""."""
        counted, others = [], list(self.invalid)
        for digest, found in self.signed.items():
            for one in found:
                if reason := objection(one.claims, digest):
                    others.append(Invalid(reason, one.place))
                else:
                    counted.append(one)
        return counted, others


async def gather_findings(
    sources: Sources, setting: GateSetting, signers: Signers, candidate: Candidate, wanted: Wanted
) -> Findings:
    """Fetch what is attached to the image, and verify it."""
    async with statement(sources.pool) as connection:
        before = await gate_verdicts.select_evidence(connection, candidate, setting)
    digests, faults = [candidate.digest], []
    on_one_engine = not candidate.on_swarm or candidate.application.configuration.runtime is RuntimeKind.CONTAINER
    if signers.platform_manifest and on_one_engine:
        try:
            index = await sources.registry.index(candidate.reference, candidate.login)
        except RolloutError as error:
            index, faults = None, [error.reason]
        own = own_manifest(index, candidate.platform) if index is not None else None
        digests += [own] if own is not None else []
    attached = await asyncio.gather(
        *(sources.registry.attached(candidate.reference.with_digest(one), candidate.login, wanted) for one in digests)
    )
    found = dict(zip(digests, attached, strict=True))
    # In a thread: many signatures take a while.
    findings = await asyncio.to_thread(verify, found, signers, sources.settings.trusted_root, faults)
    return replace(findings, before=before)


def verify(
    found: Mapping[Digest, Attached],
    signers: Signers,
    installed_root: Path | None = None,
    faults: Sequence[Reason] = (),
) -> Findings:
    """Verify what is attached to the images with these digests. What it claims is not judged here."""
    results: dict[Digest, list[Signed | Invalid]] = {digest: [] for digest in found}
    missing = []
    try:
        trust = signers.trust(installed_root)
    except ValueError as error:
        missing = [Reason(Code.GATE_UNANSWERED, f"the trusted root, by which identities are verified, {error}")]
    else:
        results = {
            digest: [examine(one, trust, digest) for one in attached.stored] for digest, attached in found.items()
        }
    waits = [attached.retry_after for attached in found.values() if attached.retry_after is not None]
    return Findings(
        {digest: tuple(one for one in every if isinstance(one, Signed)) for digest, every in results.items()},
        tuple(one for every in results.values() for one in every if isinstance(one, Invalid)),
        (*missing, *faults, *_faults(found)),
        sum(attached.left_out for attached in found.values()),
        max(waits, default=None),
    )


def _faults(found: Mapping[Digest, Attached]) -> Iterator[Reason]:
    for attached in found.values():
        yield from attached.faults


def decide_without(
    what: str, findings: Findings, others: Sequence[Invalid], signers: Signers, candidate: Candidate, *, now: datetime
) -> Decision:
    """Decide when `what` was not found: unknown while there may be more or a late one may come, else refused.

    `others` is what was found and does not count.
    """
    since = _since(findings, candidate, now)
    until = since + signers.late
    evidence = {
        "found": [{"place": one.place, "reason": one.reason} for one in others],
        "faults": [one.message for one in findings.faults],
        "leftOut": findings.left_out,
        "waitsSince": since.isoformat(),
    }
    if findings.faults:
        first, wait = findings.faults[0], findings.retry_after
        again = None if wait is None else now + timedelta(seconds=wait)
        message = f"{what} is not found so far: {first.message}"
        return unknown(first.code, message, evidence, ask_again_at=again)
    if findings.left_out:
        message = (
            f"{what} is not among the {len(others)} that were read, and there are too many to read all: "
            f"{findings.left_out} were left out; delete those that do not count"
        )
        return unknown(Code.GATE_UNANSWERED, message, evidence)
    reasons = "; one ".join(list(dict.fromkeys(one.reason for one in others))[:_NAMED])
    found = f"of the {len(others)} found none counts: one {reasons}" if others else "there is none"
    if now < until:
        again = min(now + max(_SHORTEST, (now - since) * _PART), until)
        message = f"{what} is not there yet ({found}); the gateway looks for it until {until:%H:%M:%S} UTC"
        return unknown(Code.UNSIGNED, message, evidence, ask_again_at=again)
    return refused(Code.UNSIGNED, f"{what} is missing: {found}", evidence)


def _since(findings: Findings, candidate: Candidate, now: datetime) -> datetime:
    """Return since when a late signature is waited for.

    While a registry does not answer, no signature can be stored there either: the wait begins when it answers again.
    """
    begun = findings.before.get("waitsSince")
    if findings.before.get("faults"):
        return now
    return datetime.fromisoformat(begun) if isinstance(begun, str) else candidate.first_asked_at or now
