"""The gate `provenance`: only images that a trusted builder made from a certain source, as a signed attestation says.

    https://slsa.dev/spec/v1.0/provenance    https://slsa.dev/spec/v0.2/provenance

The attestation must be signed by a trusted signer and name the image's digest. What else it says is what the signer
says: `builder`, `source` and `ref` are compared with that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pydantic import model_validator

from gateway.gates._claims import Claims
from gateway.gates._findings import Findings, decide_without, gather_findings
from gateway.gates._identities import Pattern, Text, matches
from gateway.gates._signers import Signers
from gateway.gates._strict_json import member, text_member
from gateway.gates.gate import Gate, Sources
from gateway.gates.signature import HOLDS
from gateway.model.errors import storable_text
from gateway.model.gates import Candidate, Decision, GateSetting, passed
from gateway.model.reference import Digest
from gateway.registry.attached import ATTESTATIONS

_V1, _V0_2 = "https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"
_AT_REF = re.compile(r"(?P<source>[^#]{1,2000}?)(?:@(?P<ref>refs/.{1,1000})|#(?P<part>.{1,1000}))?")
_MAX_SHOWN = 200


class Rule(Signers):
    """Who must have attested where the image comes from, and what that must be."""

    builder: Text | None = None
    """Exactly this builder's id."""
    builder_pattern: Pattern | None = None
    source: Text | None = None
    """Exactly this repository: https://github.com/acme/app."""
    source_pattern: Pattern | None = None
    ref: Text | None = None
    """Exactly this reference in the repository: refs/heads/main."""
    ref_pattern: Pattern | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("builder", "source", "ref"):
            if getattr(self, name) is not None and getattr(self, f"{name}_pattern") is not None:
                raise ValueError(f"give either {name} or {name}Pattern")
        return self


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an image comes from. A part that is not said is "". `source` has no prefix git+, and no suffix .git."""

    builder: str
    source: str
    ref: str


async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Findings:
    return await gather_findings(sources, setting, rule, candidate, ATTESTATIONS)


def decide(rule: Rule, findings: Findings, candidate: Candidate, now: datetime) -> Decision:
    image = candidate.reference
    counted, others = findings.judge(lambda claims, digest: _objection(claims, rule, digest))
    if counted:
        one = counted[0]
        found = parse_provenance(one.claims.predicate_type, one.claims.predicate)
        evidence = {
            "signers": sorted(one.signers),
            "builder": found.builder,
            "source": found.source,
            "ref": found.ref,
            "place": one.place,
        }
        origin = f"{found.source or 'a source that is not named'}{'@' if found.ref else ''}{found.ref}"
        text = f"{image} was built from {origin} by {found.builder}, as {', '.join(sorted(one.signers))} says"
        return passed(text, evidence, true_until=now + HOLDS)
    what = f"a provenance attestation of {image}"
    return decide_without(what, findings, others, rule, candidate, now=now)


def _objection(claims: Claims, rule: Rule, digest: Digest) -> str:
    """Return why the signed claims do not count, "" if they do."""
    if claims.predicate_type not in {_V1, _V0_2}:
        return f"is no provenance, but of type {claims.predicate_type[:100] or 'signature'!r}"
    if digest not in claims.digests:
        return "is for another image"
    found = parse_provenance(claims.predicate_type, claims.predicate)
    for name in ("builder", "source", "ref"):
        exact, pattern, said = getattr(rule, name), getattr(rule, f"{name}_pattern"), getattr(found, name)
        exact = parse_source(exact)[0] if name == "source" and exact is not None else exact
        if (exact, pattern) != (None, None) and not (said and matches(said, exact, pattern)):
            return f"names {f'another {name}: {said[:_MAX_SHOWN]}' if said else f'no {name}'}"
    return ""


def parse_provenance(predicate_type: str, predicate: Mapping[str, Any]) -> Provenance:
    """Return what a predicate says of the image's origin, in the words of the builders that are in use."""
    if predicate_type == _V0_2:
        builder = text_member(predicate, "builder", "id")
        source, ref = parse_source(text_member(predicate, "invocation", "configSource", "uri"))
    else:
        builder = text_member(predicate, "runDetails", "builder", "id")
        given = member(predicate, "buildDefinition", "externalParameters")
        source, ref = _external_source(given if isinstance(given, Mapping) else {})
    return Provenance(*map(storable_text, (builder, source, ref)))


def _external_source(given: Mapping[str, Any]) -> tuple[str, str]:
    """Return source and ref; in this order they are what GitHub, Google, BuildKit and GitLab say."""
    for name in ("workflow", "buildConfigSource", "configSource", "source"):
        address = text_member(given, name) or text_member(given, name, "repository") or text_member(given, name, "uri")
        if address:
            source, ref = parse_source(address)
            return source, ref or text_member(given, name, "ref") or text_member(given, "ref")
    return "", ""


def parse_source(address: str) -> tuple[str, str]:
    """Return the repository and the reference in an address.

    >>> parse_source("git+https://github.com/acme/app.git@refs/heads/main")
    ('https://github.com/acme/app', 'refs/heads/main')
    """
    match = _AT_REF.fullmatch(address)
    if match is None:
        return "", ""
    source = match["source"].removeprefix("git+").rstrip("/").removesuffix(".git")
    return source, match["ref"] or match["part"] or ""


GATE = Gate("provenance", Rule, gather, decide, title="Require a provenance attestation")
