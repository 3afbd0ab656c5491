"""What each signature without a key leads to, against a Sigstore of the tests' own."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import ValidationError

from gateway.gates import _signers
from gateway.gates._findings import verify
from gateway.gates.signature import Rule, decide
from gateway.model.errors import Code
from gateway.model.gates import Decision, Verdict
from gateway.model.reference import Digest
from gateway.registry.attached import Attached, Form, Stored
from tests.support.candidates import a_candidate
from tests.support.signing import b64, simple_payload, statement
from tests.support.sigstore import GITHUB, SIGNED_AT, WORKFLOW, Given, Sigstore
from tests.support.timestamps import TimestampAuthority

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
DIGEST, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
PASSED, REFUSED = Verdict.PASSED, Verdict.REFUSED
OURS = {"identity": WORKFLOW, "issuer": GITHUB}
STATEMENT, CLAIMS = statement(DIGEST), simple_payload(DIGEST)


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


def bundled(found: dict[str, Any]) -> Stored:
    return Stored(Form.BUNDLE, json.dumps(found).encode(), {}, "referrer")


def simple(content: bytes, signed: tuple[bytes, dict[str, str]], **changes: str) -> Stored:
    signature, annotations = signed
    return Stored(
        Form.SIMPLE, content, {"dev.cosignproject.cosign/signature": b64(signature), **annotations, **changes}, "tag"
    )


def judge(stored: Stored, root: dict[str, Any], **rule: Any) -> Decision:
    given = Rule.model_validate({"identities": [OURS], "trustedRoot": root, **rule})
    findings = verify({Digest(DIGEST): Attached((stored,))}, given)
    candidate = dataclasses.replace(a_candidate(Digest(DIGEST)), first_asked_at=NOW - timedelta(hours=1))
    return decide(given, findings, candidate, NOW)


def changed(found: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the bundle with another value at a dotted path."""
    whole: dict[str, Any] = json.loads(json.dumps(found))
    at: Any = whole
    *before, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in before:
        at = at[part]
    at[last] = value
    return whole


ENTRY = "verificationMaterial.tlogEntries.0"
LATE = Given(integrated_at=SIGNED_AT + timedelta(minutes=11))
EARLY = Given(integrated_at=SIGNED_AT - timedelta(minutes=1))
MAIL = Given(identity="ada@example.com", issuer="https://accounts.example.com")

Case = tuple[Callable[[Sigstore], Stored], Verdict, str]
# what is attached to the image, the verdict, and a word of the reason
CASES: dict[str, Case] = {
    "bundle": (lambda s: bundled(s.bundle(STATEMENT)), PASSED, f"identity {WORKFLOW} of {GITHUB}"),
    "simple": (lambda s: simple(CLAIMS, s.simple(CLAIMS)), PASSED, f"identity {WORKFLOW} of {GITHUB}"),
    # -- who
    "wrong identity": (lambda s: bundled(s.bundle(STATEMENT, Given(f"{WORKFLOW}2"))), REFUSED, f"is for {WORKFLOW}2"),
    "wrong identity, simple": (lambda s: simple(CLAIMS, s.simple(CLAIMS, MAIL)), REFUSED, "is for ada@example.com"),
    "wrong issuer": (
        lambda s: bundled(s.bundle(STATEMENT, Given(issuer="https://evil.test"))),
        REFUSED,
        "by the issuer https://evil.test",
    ),
    "another authority": (
        lambda s: bundled(Sigstore(ct_log=s.ct_log, rekor=s.rekor).bundle(STATEMENT)),
        REFUSED,
        "certificate chain",
    ),
    "another authority, simple": (
        lambda s: simple(CLAIMS, Sigstore(ct_log=s.ct_log, rekor=s.rekor).simple(CLAIMS)),
        REFUSED,
        "certificate chain",
    ),
    "a certificate that no log has": (
        lambda s: bundled(Sigstore(root=s.root, rekor=s.rekor).bundle(STATEMENT)),
        REFUSED,
        "failed to verify SCT",
    ),
    "a certificate for servers": (
        lambda s: bundled(s.bundle(STATEMENT, Given(usage=ExtendedKeyUsageOID.SERVER_AUTH))),
        REFUSED,
        "code signing",
    ),
    # -- when
    "expired certificate": (lambda s: bundled(s.bundle(STATEMENT, LATE)), REFUSED, "certificate"),
    "expired certificate, simple": (lambda s: simple(CLAIMS, s.simple(CLAIMS, LATE)), REFUSED, "certificate"),
    "certificate from after the signature": (lambda s: bundled(s.bundle(STATEMENT, EARLY)), REFUSED, "certificate"),
    "time changed": (
        lambda s: bundled(
            changed(s.bundle(STATEMENT, LATE), f"{ENTRY}.integratedTime", str(int(SIGNED_AT.timestamp()) + 9))
        ),
        REFUSED,
        "invalid inclusion promise",
    ),
    "time changed, simple": (
        lambda s: simple(CLAIMS, _retimed(*s.simple(CLAIMS, LATE))),
        REFUSED,
        "invalid",
    ),
    # -- the log
    "no log entry": (lambda s: bundled(s.bundle(STATEMENT, without="all")), REFUSED, "exactly one log entry"),
    "no log entry, simple": (
        lambda s: simple(CLAIMS, s.simple(CLAIMS), **{"dev.sigstore.cosign/bundle": ""}),
        REFUSED,
        "no entry of a transparency log",
    ),
    "no proof": (lambda s: bundled(s.bundle(STATEMENT, without="inclusionProof")), REFUSED, "inclusionProof"),
    "no promise, and so no time": (
        lambda s: bundled(s.bundle(STATEMENT, without="inclusionPromise")),
        REFUSED,
        "inclusion promise or signed timestamp",
    ),
    "another log": (
        lambda s: bundled(Sigstore(root=s.root, ct_log=s.ct_log).bundle(STATEMENT)),
        REFUSED,
        "invalid log entry",
    ),
    "another log, simple": (
        lambda s: simple(CLAIMS, Sigstore(root=s.root, ct_log=s.ct_log).simple(CLAIMS)),
        REFUSED,
        "invalid inclusion promise",
    ),
    "a log entry of something else": (
        lambda s: bundled(s.bundle(STATEMENT, Given(logged=b"{}"))),
        REFUSED,
        "log entry payload hash",
    ),
    "a log entry of something else, simple": (
        lambda s: simple(CLAIMS, s.simple(CLAIMS, Given(logged=b"{}"))),
        REFUSED,
        "inconsistent",
    ),
    "a log entry of another signature": (
        lambda s: bundled(
            changed(s.bundle(STATEMENT), ENTRY, s.bundle(STATEMENT)["verificationMaterial"]["tlogEntries"][0])
        ),
        REFUSED,
        "do not match bundle",
    ),
    "a proof of another tree": (
        lambda s: bundled(changed(s.bundle(STATEMENT), f"{ENTRY}.inclusionProof.hashes.0", b64(bytes(32)))),
        REFUSED,
        "root hash",
    ),
    "an index beyond the tree": (
        lambda s: bundled(changed(s.bundle(STATEMENT), f"{ENTRY}.inclusionProof.logIndex", str(2**63))),
        REFUSED,
        "logIndex",
    ),
    "a huge index": (
        lambda s: bundled(changed(s.bundle(STATEMENT), f"{ENTRY}.logIndex", "9" * 5000)),
        REFUSED,
        "failed to load",
    ),
    # -- what
    "another digest": (lambda s: bundled(s.bundle(statement(OTHER))), REFUSED, f"is for {OTHER}"),
    "another digest, simple": (
        lambda s: simple(simple_payload(OTHER), s.simple(simple_payload(OTHER))),
        REFUSED,
        f"is for {OTHER}",
    ),
    "payload changed": (
        lambda s: bundled(changed(s.bundle(statement(OTHER)), "dsseEnvelope.payload", b64(STATEMENT))),
        REFUSED,
        "invalid signature",
    ),
    "payload changed, simple": (
        lambda s: simple(CLAIMS, s.simple(simple_payload(OTHER))),
        REFUSED,
        "Signature is invalid",
    ),
    "certificate of another signature": (
        lambda s: bundled(
            changed(
                s.bundle(STATEMENT),
                "verificationMaterial.certificate",
                s.bundle(STATEMENT)["verificationMaterial"]["certificate"],
            )
        ),
        REFUSED,
        "invalid signature",
    ),
    "a key instead of a certificate": (
        lambda s: bundled(changed(s.bundle(STATEMENT), "verificationMaterial", {"publicKey": {"hint": "x"}})),
        REFUSED,
        "nobody",
    ),
    "rubbish for a certificate": (
        lambda s: bundled(changed(s.bundle(STATEMENT), "verificationMaterial.certificate.rawBytes", "AAAA")),
        REFUSED,
        "no valid certificate",
    ),
    "rubbish for a certificate, simple": (
        lambda s: simple(CLAIMS, s.simple(CLAIMS), **{"dev.sigstore.cosign/certificate": "-----BEGIN"}),
        REFUSED,
        "no valid certificate",
    ),
    "rubbish for a log entry, simple": (
        lambda s: simple(
            CLAIMS, s.simple(CLAIMS), **{"dev.sigstore.cosign/bundle": '{"Payload": {"integratedTime": true}}'}
        ),
        REFUSED,
        "without its time",
    ),
}


def _retimed(signature: bytes, annotations: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    name = "dev.sigstore.cosign/bundle"
    entry = changed(json.loads(annotations[name]), "Payload.integratedTime", int(SIGNED_AT.timestamp()) + 9)
    return signature, {**annotations, name: json.dumps(entry)}


@pytest.mark.parametrize(
    ("stored", "verdict", "word"), CASES.values(), ids=[f"{name} -> {case[1]}" for name, case in CASES.items()]
)
def test_signatures_without_a_key(
    sigstore: Sigstore, stored: Callable[[Sigstore], Stored], verdict: Verdict, word: str
) -> None:
    decision = judge(stored(sigstore), sigstore.trusted_root)
    assert (decision.verdict, word in decision.message) == (verdict, True), decision.message


def test_a_timestamp_tells_the_time_where_the_log_does_not(sigstore: Sigstore, tmp_path: Path) -> None:
    """As with the second version of Rekor."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    authority, stranger = TimestampAuthority(ours), TimestampAuthority(theirs)
    root = {**sigstore.trusted_root, "timestampAuthorities": [authority.trusted]}
    now = datetime.now(UTC)
    fresh = Given(issued_at=now - timedelta(minutes=1))

    def verdict(found: dict[str, Any]) -> Verdict:
        return judge(bundled(found), root).verdict

    right = sigstore.stamped_bundle(STATEMENT, authority.stamp, fresh)
    assert verdict(right) is PASSED
    assert judge(bundled(right), sigstore.trusted_root).verdict is REFUSED
    assert verdict(sigstore.stamped_bundle(STATEMENT, stranger.stamp, fresh)) is REFUSED
    assert verdict(sigstore.stamped_bundle(STATEMENT, lambda _: authority.stamp(b"another"), fresh)) is REFUSED
    expired = dataclasses.replace(fresh, issued_at=now - timedelta(hours=1))
    assert verdict(sigstore.stamped_bundle(STATEMENT, authority.stamp, expired)) is REFUSED
    other = dataclasses.replace(fresh, logged=b"something else")
    assert verdict(sigstore.stamped_bundle(STATEMENT, authority.stamp, other)) is REFUSED


PATTERNS: dict[str, tuple[dict[str, str], Given, Verdict]] = {
    "a pattern": (
        {"identityPattern": r"https://github\.com/acme/.*@refs/heads/main", "issuer": GITHUB},
        Given(),
        PASSED,
    ),
    "a pattern of a part only": ({"identityPattern": "github.com/acme", "issuer": GITHUB}, Given(), REFUSED),
    "a pattern of the issuer": ({"identity": MAIL.identity, "issuerPattern": r"https://accounts\..*"}, MAIL, PASSED),
    "a pattern that takes long by backtracking": (
        {"identityPattern": "(a*)*b", "issuer": GITHUB},
        Given("https://" + "a" * 2000),
        REFUSED,
    ),
}


@pytest.mark.parametrize(("identity", "given", "verdict"), PATTERNS.values(), ids=PATTERNS)
def test_identities_by_pattern(sigstore: Sigstore, identity: dict[str, str], given: Given, verdict: Verdict) -> None:
    one = bundled(sigstore.bundle(STATEMENT, given))
    assert judge(one, sigstore.trusted_root, identities=[identity]).verdict is verdict


def test_a_signer_counts_once_however_many_identities_it_matches(sigstore: Sigstore) -> None:
    anybody = {"identityPattern": ".*", "issuerPattern": ".*"}
    rule = Rule.model_validate({"identities": [OURS, anybody], "threshold": 2, "trustedRoot": sigstore.trusted_root})

    def verdict(*stored: Stored) -> Verdict:
        findings = verify({Digest(DIGEST): Attached(stored)}, rule)
        since = NOW - timedelta(hours=1)
        return decide(
            rule, findings, dataclasses.replace(a_candidate(Digest(DIGEST)), first_asked_at=since), NOW
        ).verdict

    ours = bundled(sigstore.bundle(STATEMENT))
    assert verdict(ours, simple(CLAIMS, sigstore.simple(CLAIMS))) is REFUSED
    assert verdict(ours, simple(CLAIMS, sigstore.simple(CLAIMS, MAIL))) is PASSED


WRONG_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "anybody's identity": ({"identities": [{"identity": WORKFLOW}]}, "give either issuer or issuerPattern"),
    "no identity": ({"identities": [{"issuer": GITHUB}]}, "give either identity or identityPattern"),
    "a pattern with lookahead": ({"identities": [{"identityPattern": "(?=a)", "issuer": GITHUB}]}, "RE2"),
    "another document for a root": ({"identities": [OURS], "trustedRoot": {"mediaType": "x"}}, "not one of Sigstore"),
}


@pytest.mark.parametrize(("rule", "message"), WRONG_RULES.values(), ids=WRONG_RULES)
def test_a_rule_that_would_not_protect_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rule.model_validate(rule)


def test_without_the_package_a_rule_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_signers, "is_installed", lambda: False)
    with pytest.raises(ValidationError, match=r"pip install 'pushdeploy\[keyless\]'"):
        Rule.model_validate({"identities": [OURS]})


def test_without_a_trusted_root_no_identity_is_refused_and_none_passes(sigstore: Sigstore, tmp_path: Path) -> None:
    rule = Rule.model_validate({"identities": [OURS]})
    found = {Digest(DIGEST): Attached((bundled(sigstore.bundle(STATEMENT)),))}
    broken, right = tmp_path / "broken.json", tmp_path / "root.json"
    broken.write_text("{}")
    right.write_text(json.dumps(sigstore.trusted_root))
    for root, words in (
        (None, "GATEWAY_TRUSTED_ROOT"),
        (tmp_path, "cannot be read"),
        (broken, "is not a trusted root"),
    ):
        decision = decide(rule, verify(found, rule, root), a_candidate(Digest(DIGEST)), NOW)
        assert (decision.verdict, decision.code) == (Verdict.UNKNOWN, Code.GATE_UNANSWERED)
        assert words in decision.message
    assert decide(rule, verify(found, rule, right), a_candidate(Digest(DIGEST)), NOW).verdict is PASSED


def test_the_root_of_the_public_sigstore_is_read(sigstore: Sigstore) -> None:
    """The package has a copy; its keys are of more kinds than those of the tests."""
    from sigstore._utils import read_embedded

    root = json.loads(read_embedded("trusted_root.json", "https://tuf-repo-cdn.sigstore.dev"))
    assert judge(bundled(sigstore.bundle(STATEMENT)), root).verdict is REFUSED


def test_a_reason_is_one_line_that_can_be_stored(sigstore: Sigstore) -> None:
    strange = "\udc00\0\n" * 500
    found = sigstore.bundle(STATEMENT)
    for path in ("verificationMaterial.certificate.rawBytes", f"{ENTRY}.logIndex", f"{ENTRY}.kindVersion.kind"):
        reason = judge(bundled(changed(found, path, strange)), sigstore.trusted_root).evidence["found"][0]["reason"]
        assert reason.isprintable()
        assert len(reason) <= 400
        reason.encode()


def test_nothing_is_requested_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    fresh = Sigstore()
    assert judge(bundled(fresh.bundle(STATEMENT)), fresh.trusted_root).verdict is PASSED
