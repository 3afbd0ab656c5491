"""What each attestation of an image's origin leads to. The signatures are made with the openssl command."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.gates._findings import verify
from gateway.gates.provenance import Rule, decide
from gateway.model.gates import Decision, Verdict
from gateway.model.reference import Digest
from gateway.registry.attached import Attached, Form, Stored
from tests.support.candidates import a_candidate
from tests.support.signing import SigningKey, envelope, pae, signed_bundle, simple_payload, statement
from tests.support.sigstore import GITHUB, WORKFLOW, Given, Sigstore

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
PASSED, REFUSED, UNKNOWN = Verdict.PASSED, Verdict.REFUSED, Verdict.UNKNOWN
V1, V0_2 = "https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"

BUILDER = "https://github.com/actions/runner/github-hosted"
SOURCE, REF = "https://github.com/acme/app", "refs/heads/main"
RULE = {"builder": BUILDER, "source": SOURCE, "ref": REF}


def v1(**parameters: Any) -> dict[str, Any]:
    return {"buildDefinition": {"externalParameters": parameters}, "runDetails": {"builder": {"id": BUILDER}}}


def v0_2(uri: str, builder: str = BUILDER) -> dict[str, Any]:
    return {"builder": {"id": builder}, "invocation": {"configSource": {"uri": uri}}}


WORKFLOW_OF_MAIN = v1(workflow={"repository": SOURCE, "ref": REF, "path": ".github/workflows/release.yml"})

# the predicate, the rule, the verdict, and a word of the reason
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], Verdict, str]] = {
    "GitHub": (V1, WORKFLOW_OF_MAIN, RULE, PASSED, f"was built from {SOURCE}@{REF} by {BUILDER}"),
    "GitHub, generator": (V0_2, v0_2(f"git+{SOURCE}@{REF}"), RULE, PASSED, ""),
    "BuildKit": (V1, v1(configSource={"uri": f"{SOURCE}.git#{REF}"}), RULE, PASSED, ""),
    "Google": (V1, v1(buildConfigSource={"repository": f"git+{SOURCE}", "ref": REF}), RULE, PASSED, ""),
    "GitLab": (V1, v1(source=SOURCE, ref=REF), RULE, PASSED, ""),
    "no rule for the content": (V1, {}, {}, PASSED, "a source that is not named"),
    "by pattern": (V1, WORKFLOW_OF_MAIN, {"sourcePattern": r"https://github\.com/acme/.*"}, PASSED, ""),
    "source with another suffix": (V0_2, v0_2(f"git+{SOURCE}"), {"source": f"git+{SOURCE}.git/"}, PASSED, ""),
    "another builder": (V0_2, v0_2(f"git+{SOURCE}@{REF}", "https://evil.test"), RULE, REFUSED, "another builder"),
    "another source": (V0_2, v0_2(f"git+{SOURCE}2@{REF}"), RULE, REFUSED, f"another source: {SOURCE}2"),
    "a fork": (V1, v1(workflow={"repository": "https://github.com/evil/app", "ref": REF}), RULE, REFUSED, "evil/app"),
    "another ref": (V0_2, v0_2(f"git+{SOURCE}@refs/heads/mainx"), RULE, REFUSED, "another ref: refs/heads/mainx"),
    "a part of a pattern": (V1, WORKFLOW_OF_MAIN, {"refPattern": "heads"}, REFUSED, "another ref"),
    "no source": (V1, v1(), RULE, REFUSED, "names no source"),
    "source of another kind": (V1, v1(workflow=[SOURCE]), {"source": SOURCE}, REFUSED, "names no source"),
    "a predicate of another version": (
        "https://slsa.dev/provenance/v9",
        WORKFLOW_OF_MAIN,
        RULE,
        REFUSED,
        "no provenance",
    ),
    "a list of parts": (
        "https://spdx.dev/Document",
        {},
        {},
        REFUSED,
        "is no provenance, but of type 'https://spdx.dev",
    ),
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.generate(tmp_path_factory.mktemp("keys"))


def judge(stored: Stored, rule: dict[str, Any], waited: float = 60) -> Decision:
    given = Rule.model_validate(rule)
    since = NOW - timedelta(seconds=waited)
    candidate = dataclasses.replace(a_candidate(Digest(DIGEST)), first_asked_at=since)
    return decide(given, verify({Digest(DIGEST): Attached((stored,))}, given), candidate, NOW)


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "rule", "verdict", "word"),
    CASES.values(),
    ids=[f"{name} -> {case[3]}" for name, case in CASES.items()],
)
def test_provenance(
    key: SigningKey, predicate_type: str, predicate: dict[str, Any], rule: dict[str, Any], verdict: Verdict, word: str
) -> None:
    one = Stored(Form.BUNDLE, signed_bundle(key, statement(DIGEST, predicate_type, predicate)), {}, "referrer")
    decision = judge(one, {"keys": [key.public], **rule})
    assert (decision.verdict, word in decision.message) == (verdict, True), decision.message


def test_an_attestation_under_the_tag_of_cosign_2_counts(key: SigningKey) -> None:
    content = statement(DIGEST, V1, WORKFLOW_OF_MAIN)
    one = Stored(Form.ENVELOPE, json.dumps(envelope(content, key.sign(pae(content)))).encode(), {}, "tag")
    assert judge(one, {"keys": [key.public], **RULE}).verdict is PASSED


def test_the_attestation_of_another_image_or_signer_shows_nothing(key: SigningKey, tmp_path: Any) -> None:
    about_other = Stored(Form.BUNDLE, signed_bundle(key, statement(OTHER, V1, WORKFLOW_OF_MAIN)), {}, "referrer")
    assert "is for another image" in judge(about_other, {"keys": [key.public], **RULE}).message
    stranger = SigningKey.generate(tmp_path)
    strange = Stored(Form.BUNDLE, signed_bundle(stranger, statement(DIGEST, V1, WORKFLOW_OF_MAIN)), {}, "referrer")
    assert judge(strange, {"keys": [key.public], **RULE}).verdict is REFUSED
    assert judge(strange, {"keys": [key.public], **RULE}, waited=1).verdict is UNKNOWN


def test_a_signature_is_no_provenance(key: SigningKey) -> None:
    content = statement(DIGEST)
    one = Stored(Form.BUNDLE, signed_bundle(key, content), {}, "referrer")
    assert "is no provenance" in judge(one, {"keys": [key.public]}).message
    claims = simple_payload(DIGEST)
    text = Stored(Form.ENVELOPE, claims, {"dev.cosignproject.cosign/signature": ""}, "tag")
    assert judge(text, {"keys": [key.public]}).verdict is REFUSED


def test_an_attestation_without_a_key_is_verified_in_both_forms() -> None:
    sigstore = Sigstore()
    rule = {"identities": [{"identity": WORKFLOW, "issuer": GITHUB}], "trustedRoot": sigstore.trusted_root, **RULE}
    content = statement(DIGEST, V1, WORKFLOW_OF_MAIN)
    for given, verdict in ((Given(), PASSED), (Given(issuer="https://evil.test"), REFUSED)):
        new = Stored(Form.BUNDLE, json.dumps(sigstore.bundle(content, given)).encode(), {}, "referrer")
        old_content, annotations = sigstore.attestation(content, given)
        old = Stored(Form.ENVELOPE, old_content, annotations, "tag")
        assert [judge(one, rule).verdict for one in (new, old)] == [verdict, verdict]


def test_a_rule_names_a_thing_exactly_or_by_pattern(key: SigningKey) -> None:
    with pytest.raises(ValidationError, match="give either ref or refPattern"):
        Rule.model_validate({"keys": [key.public], "ref": REF, "refPattern": ".*"})
