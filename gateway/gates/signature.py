"""The gate `signature`: only images that trusted signers have signed, with cosign.

What counts is the digest that the tag names: of an image for several platforms that of its index, or also that of the
manifest for the engine's platform, if the rule says so. A signature names the digest, so one of another image, or one
copied from another repository, shows nothing about this one.

cosign does not compare the repository that a signature names with that of the image; here a rule can ask for it.
"""

from datetime import datetime, timedelta
from typing import Self

from pydantic import Field, model_validator

from gateway.gates._claims import Claims
from gateway.gates._findings import Findings, decide_without, gather_findings
from gateway.gates._signers import Signers
from gateway.gates.gate import Gate, Sources
from gateway.model.errors import InvalidInput
from gateway.model.gates import Candidate, Decision, GateSetting, passed
from gateway.model.reference import Digest, Reference, Repository
from gateway.registry.attached import SIGNATURES

_SAME = "same"
_MAX_ANNOTATIONS = 20
_MAX_THRESHOLD = 20
# Whoever deletes a signature, to withdraw it, means later deployments too.
HOLDS = timedelta(hours=1)


class Rule(Signers):
    """Whose signatures an image needs."""

    threshold: int = Field(default=1, ge=1, le=_MAX_THRESHOLD)
    """How many must have signed, each with another key or as another identity."""
    annotations: dict[str, str] = Field(default={}, max_length=_MAX_ANNOTATIONS)
    """What must be signed with it: cosign sign -a KEY=VALUE."""
    repository: str | None = None
    """The repository that the signature must name: `same` for that of the image. Unset: any, as with cosign."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        signers = len(self.keys) + len(self.identities)
        by_pattern = any(one.identity is None for one in self.identities)
        if self.threshold > signers and not by_pattern:
            raise ValueError(f"threshold is {self.threshold}, but there are only {signers} keys and identities")
        if self.repository not in {None, _SAME}:
            try:
                _ = Repository.parse(str(self.repository))
            except InvalidInput as error:
                raise ValueError(f"repository: give 'same', or the name that was signed: {error}") from error
        return self


async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Findings:
    return await gather_findings(sources, setting, rule, candidate, SIGNATURES)


def decide(rule: Rule, findings: Findings, candidate: Candidate, now: datetime) -> Decision:
    image = candidate.reference
    counted, others = findings.judge(lambda claims, digest: _objection(claims, rule, image, digest))
    # A signer may have signed the index or the platform's manifest: either way it has signed what will run.
    signers = sorted(frozenset().union(*(one.signers for one in counted)))
    if len(signers) >= rule.threshold:
        evidence = {"signers": signers, "places": sorted({one.place for one in counted})}
        return passed(f"{image} is signed by {', '.join(signers)}", evidence, true_until=now + HOLDS)
    needed = rule.threshold - len(signers)
    what = f"a signature of {image}"
    if rule.threshold > 1:
        what = f"a signature of {image} by {needed} more of the {rule.threshold} signers that are needed"
    return decide_without(what, findings, others, rule, candidate, now=now)


def _objection(claims: Claims, rule: Rule, image: Reference, digest: Digest) -> str:
    """Return why the signed claims do not count, "" if they do."""
    if not claims.of_image:
        return f"is no signature of an image, but a statement of type {claims.predicate_type[:100]!r}"
    if digest not in claims.digests:
        return f"is for {', '.join(sorted(claims.digests))[:100] or 'no image'}"
    for name, wanted in rule.annotations.items():
        if (found := claims.annotations.get(name)) != wanted:
            return f"has {'no annotation' if found is None else 'another value for the annotation'} {name!r}"
    return "" if rule.repository is None else _other_repository(claims.name, rule.repository, image, digest)


def _other_repository(name: str, wanted: str, image: Reference, digest: Digest) -> str:
    if not name:
        return "names no repository, as those of cosign 3 do not"
    try:
        named = Reference.parse(name)
    except InvalidInput:
        return "names no valid repository"
    repository = image.repository if wanted == _SAME else Repository.parse(wanted)
    return "" if named.repository == repository and named.digest in {None, digest} else f"is for {name[:200]}"


GATE = Gate("signature", Rule, gather, decide, title="Require a signature")
