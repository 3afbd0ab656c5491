"""What each signature of a key leads to. The signatures are made with the openssl command."""

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.gates._findings import verify
from gateway.gates.signature import Rule, decide
from gateway.model.errors import Code, Reason
from gateway.model.gates import Decision, Verdict
from gateway.model.reference import Digest, Reference
from gateway.registry.attached import Attached, Form, Stored
from tests.support.candidates import a_candidate
from tests.support.signing import (
    IN_TOTO,
    SigningKey,
    b64,
    bundle,
    envelope,
    message_bundle,
    openssl,
    pae,
    signed_bundle,
    simple_payload,
    statement,
)

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MANIFEST = b'{"schemaVersion":2}'
DIGEST = "sha256:" + openssl("dgst", "-sha256", "-r", given=MANIFEST).decode().split()[0]
OTHER = "sha256:" + "cd" * 32
REPOSITORY = "registry.example.com/acme/app"

PASSED, REFUSED, UNKNOWN = Verdict.PASSED, Verdict.REFUSED, Verdict.UNKNOWN


@dataclasses.dataclass(frozen=True)
class Keys:
    """Whoever signs here. `ours` and `second` are trusted, where a case does not say otherwise; `theirs` is not."""

    ours: SigningKey
    second: SigningKey
    theirs: SigningKey
    p384: SigningKey
    rsa: SigningKey
    ed25519: SigningKey

    @property
    def trusted(self) -> tuple[SigningKey, SigningKey]:
        return self.ours, self.second


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory = tmp_path_factory.mktemp("keys")
    names = {"ours": "P-256", "second": "P-256", "theirs": "P-256", "p384": "P-384", "rsa": "RSA", "ed25519": "Ed25519"}
    return Keys(**{name: SigningKey.generate(directory, algorithm, name) for name, algorithm in names.items()})


def simple(key: SigningKey, content: bytes, signature: bytes | None = None, **annotations: str) -> Stored:
    proof = b64(key.sign(content) if signature is None else signature)
    return Stored(Form.SIMPLE, content, {"dev.cosignproject.cosign/signature": proof, **annotations}, "tag")


def bundled(content: bytes) -> Stored:
    return Stored(Form.BUNDLE, content, {}, "referrer")


def judge(
    of: Keys,
    stored: Sequence[Stored],
    waited: float = 60,
    attached: Attached | None = None,
    **rule: Any,
) -> Decision:
    """Return the decision about the image, by default at the end of the wait."""
    given = Rule.model_validate({"keys": [of.ours.public], **rule})
    found = attached or Attached()
    findings = verify({Digest(DIGEST): dataclasses.replace(found, stored=tuple(stored))}, given)
    candidate = dataclasses.replace(
        a_candidate(Digest(DIGEST)),
        reference=Reference.parse(f"{REPOSITORY}:v1@{DIGEST}"),
        first_asked_at=NOW - timedelta(seconds=waited),
    )
    return decide(given, findings, candidate, NOW)


def enveloped(payload: bytes, *signatures: bytes) -> bytes:
    return bundle({"dsseEnvelope": envelope(payload, *signatures)})


def recoded(key: SigningKey, change: Callable[[str], str]) -> Stored:
    one = simple(key, simple_payload(DIGEST))
    name = "dev.cosignproject.cosign/signature"
    return dataclasses.replace(one, annotations={name: change(one.annotations[name])})


def edited(content: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(content) | changes).encode()


def without_key(content: bytes) -> Callable[[Keys], list[Stored]]:
    """A signature by the trusted key of exactly this content."""
    return lambda keys: [simple(keys.ours, content)]


CLAIMS = simple_payload(DIGEST, REPOSITORY)
STATEMENT = statement(DIGEST)
TWO_KEYS = {"threshold": 2}

# what is attached to the image, the rule besides the key, the verdict, and a word of the reason
DIGEST_NAME = b'"docker-manifest-digest"'
IN_PROD = {"annotations": {"env": "prod"}}
PLAIN = {"payloadType": "text/plain"}
CASES: dict[str, tuple[Callable[[Keys], list[Stored]], dict[str, Any], Verdict, str]] = {
    # -- who signed
    "nothing": (lambda _: [], {}, REFUSED, "there is none"),
    "right key": (lambda by: [simple(by.ours, CLAIMS)], {}, PASSED, "is signed by key sha256:"),
    "right key, bundle": (lambda by: [bundled(signed_bundle(by.ours, STATEMENT))], {}, PASSED, ""),
    "right key, bundle of the manifest": (lambda by: [bundled(message_bundle(by.ours, MANIFEST))], {}, PASSED, ""),
    "wrong key": (lambda by: [simple(by.theirs, CLAIMS)], {}, REFUSED, "nobody who is trusted"),
    "wrong key, bundle": (lambda by: [bundled(signed_bundle(by.theirs, STATEMENT))], {}, REFUSED, "nobody"),
    "wrong key, bundle of the manifest": (
        lambda by: [bundled(message_bundle(by.theirs, MANIFEST))],
        {},
        REFUSED,
        "nobody",
    ),
    "wrong keys before and after the right one": (
        lambda by: [simple(one, CLAIMS) for one in (by.theirs, by.ours, by.second)],
        {},
        PASSED,
        "",
    ),
    # -- what was signed
    "another digest": (lambda by: [simple(by.ours, simple_payload(OTHER))], {}, REFUSED, f"is for {OTHER}"),
    "another digest, bundle": (lambda by: [bundled(signed_bundle(by.ours, statement(OTHER)))], {}, REFUSED, OTHER),
    "another manifest, bundle": (lambda by: [bundled(message_bundle(by.ours, b"{}"))], {}, REFUSED, "else"),
    "digest in upper case": (
        lambda by: [simple(by.ours, simple_payload(DIGEST.upper()))],
        {},
        REFUSED,
        "is for SHA256",
    ),
    "an attestation of vulnerabilities by the same key": (
        lambda by: [
            bundled(signed_bundle(by.ours, statement(DIGEST, "https://cosign.sigstore.dev/attestation/vuln/v1")))
        ],
        {},
        REFUSED,
        "is no signature of an image",
    ),
    "payload of another type": (
        lambda by: [simple(by.ours, CLAIMS.replace(b"cosign container image", b"atomic container"))],
        {},
        REFUSED,
        "is not of type",
    ),
    "payload changed after signing": (
        lambda by: [simple(by.ours, CLAIMS, by.ours.sign(CLAIMS + b" "))],
        {},
        REFUSED,
        "nobody",
    ),
    "payload in the envelope changed": (
        lambda by: [bundled(enveloped(STATEMENT, by.ours.sign(pae(statement(OTHER)))))],
        {},
        REFUSED,
        "nobody",
    ),
    "statement signed without its envelope": (
        lambda by: [bundled(enveloped(STATEMENT, by.ours.sign(STATEMENT)))],
        {},
        REFUSED,
        "nobody",
    ),
    "two digests in one payload": (
        without_key(CLAIMS.replace(DIGEST_NAME, DIGEST_NAME + b':"sha256:0",' + DIGEST_NAME)),
        {},
        REFUSED,
        "a name twice",
    ),
    "two digests in one payload, escaped": (
        without_key(
            CLAIMS.replace(DIGEST_NAME, DIGEST_NAME.replace(b"t-d", b"t\\u002dd") + b':"sha256:0",' + DIGEST_NAME)
        ),
        {},
        REFUSED,
        "a name twice",
    ),
    "payload with a huge number": (without_key(CLAIMS[:-1] + b',"n":' + b"9" * 5000 + b"}"), {}, REFUSED, "number"),
    "payload nested deeply": (
        without_key(CLAIMS[:-1] + b',"n":' + b"[" * 90_000 + b"]" * 90_000 + b"}"),
        {},
        REFUSED,
        "JSON",
    ),
    "payload that is a list": (without_key(b"[" + CLAIMS + b"]"), {}, REFUSED, "not a JSON object"),
    "payload with NaN": (without_key(CLAIMS[:-1] + b',"n":NaN}'), {}, REFUSED, "NaN"),
    "payload in another encoding": (without_key(CLAIMS.decode().encode("utf-16")), {}, REFUSED, "not JSON"),
    "statement with the digest under another algorithm": (
        lambda by: [bundled(signed_bundle(by.ours, STATEMENT.replace(b'"sha256"', b'"sha512"')))],
        {},
        REFUSED,
        "is for",
    ),
    "statement about many, among them the image": (
        lambda by: [
            bundled(
                signed_bundle(
                    by.ours,
                    edited(
                        STATEMENT,
                        subject=[
                            {"digest": {"sha256": OTHER[7:]}},
                            "rubbish",
                            {"digest": None},
                            {"digest": {"sha256": DIGEST[7:]}},
                        ],
                    ),
                )
            )
        ],
        {},
        PASSED,
        "",
    ),
    # -- how it is stored
    "signature that is no base64": (lambda by: [recoded(by.ours, lambda one: "?" + one)], {}, REFUSED, "not base64"),
    "signature with a line break": (
        lambda by: [recoded(by.ours, lambda one: one[:8] + "\n" + one[8:])],
        {},
        REFUSED,
        "base64",
    ),
    "signature without padding": (lambda by: [recoded(by.ours, lambda one: one.rstrip("=") + "A")], {}, REFUSED, ""),
    "signature for addresses": (
        lambda by: [recoded(by.ours, lambda one: one.replace(one[9], "-"))],
        {},
        REFUSED,
        "not base64",
    ),
    "no signature at all": (lambda by: [recoded(by.ours, lambda _: "")], {}, REFUSED, "nobody"),
    "signature with bytes after it": (
        lambda by: [recoded(by.ours, lambda one: b64(base64.b64decode(one) + b"\0"))],
        {},
        REFUSED,
        "nobody",
    ),
    "signature of zeros": (
        lambda by: [simple(by.ours, CLAIMS, bytes.fromhex("3006020100020100"))],
        {},
        REFUSED,
        "nobody",
    ),
    "signature in the form of another algorithm": (
        lambda by: [simple(by.ours, CLAIMS, by.ed25519.sign(CLAIMS))],
        {},
        REFUSED,
        "nobody",
    ),
    "text of the tag stored as a bundle": (lambda _: [bundled(CLAIMS)], {}, REFUSED, "not known"),
    "bundle stored as a text of the tag": (
        lambda by: [simple(by.ours, signed_bundle(by.ours, STATEMENT))],
        {},
        REFUSED,
        "is not of type",
    ),
    "bundle of an unknown version": (
        lambda by: [
            bundled(edited(signed_bundle(by.ours, STATEMENT), mediaType="application/vnd.dev.sigstore.bundle.v9+json"))
        ],
        {},
        REFUSED,
        "not known",
    ),
    "bundle with both kinds of signature": (
        lambda by: [bundled(edited(signed_bundle(by.ours, STATEMENT), messageSignature={}))],
        {},
        REFUSED,
        "without one",
    ),
    "envelope of another type": (
        lambda by: [
            bundled(bundle({"dsseEnvelope": envelope(STATEMENT, by.ours.sign(pae(STATEMENT, "text/plain"))) | PLAIN}))
        ],
        {},
        REFUSED,
        f"is not of type {IN_TOTO}",
    ),
    "envelope with too many signatures": (
        lambda by: [bundled(enveloped(STATEMENT, *[by.ours.sign(pae(STATEMENT))] * 5))],
        {},
        REFUSED,
        "more than 4",
    ),
    "bundle with a certificate and nobody to compare it with": (
        lambda by: [
            bundled(
                edited(signed_bundle(by.theirs, STATEMENT), verificationMaterial={"certificate": {"rawBytes": "AA=="}})
            )
        ],
        {},
        REFUSED,
        "nobody",
    ),
    "rubbish": (
        lambda by: [bundled(b"\0\xff"), simple(by.ours, b"{"), bundled(b"")],
        {},
        REFUSED,
        "3 found none counts",
    ),
    # -- several keys
    "two of two": (
        lambda by: [simple(by.ours, CLAIMS), bundled(signed_bundle(by.second, STATEMENT))],
        TWO_KEYS,
        PASSED,
        ", key sha256",
    ),
    "one of two": (lambda by: [simple(by.ours, CLAIMS)], TWO_KEYS, REFUSED, "by 1 more of the 2"),
    "one of two, twice": (
        lambda by: [simple(by.ours, CLAIMS), simple(by.ours, CLAIMS), bundled(signed_bundle(by.ours, STATEMENT))],
        TWO_KEYS,
        REFUSED,
        "by 1 more of the 2",
    ),
    "one of two, and a stranger": (
        lambda by: [simple(by.ours, CLAIMS), simple(by.theirs, CLAIMS)],
        TWO_KEYS,
        REFUSED,
        "by 1 more of the 2",
    ),
    "two of two in one envelope": (
        lambda by: [bundled(enveloped(STATEMENT, *(one.sign(pae(STATEMENT)) for one in by.trusted)))],
        TWO_KEYS,
        PASSED,
        "",
    ),
    # -- annotations
    "annotation": (lambda by: [simple(by.ours, simple_payload(DIGEST, env="prod"))], IN_PROD, PASSED, ""),
    "annotation, bundle": (
        lambda by: [bundled(signed_bundle(by.ours, statement(DIGEST, annotations={"env": "prod"})))],
        IN_PROD,
        PASSED,
        "",
    ),
    "another annotation": (
        lambda by: [simple(by.ours, simple_payload(DIGEST, env="dev"))],
        IN_PROD,
        REFUSED,
        "another value",
    ),
    "no annotation": (lambda by: [simple(by.ours, CLAIMS)], IN_PROD, REFUSED, "no annotation 'env'"),
    "annotation beside the signature, not signed": (
        lambda by: [simple(by.ours, CLAIMS, env="prod")],
        IN_PROD,
        REFUSED,
        "no annotation 'env'",
    ),
    "annotation of the other subject": (
        lambda by: [
            bundled(
                signed_bundle(
                    by.ours,
                    edited(
                        STATEMENT,
                        subject=[{"digest": {"sha256": OTHER[7:]}, **IN_PROD}, {"digest": {"sha256": DIGEST[7:]}}],
                    ),
                )
            )
        ],
        IN_PROD,
        REFUSED,
        "no annotation 'env'",
    ),
    # -- the repository
    "another repository, not asked for": (
        lambda by: [simple(by.ours, simple_payload(DIGEST, "ghcr.io/evil/app"))],
        {},
        PASSED,
        "",
    ),
    "another repository": (
        lambda by: [simple(by.ours, simple_payload(DIGEST, "ghcr.io/evil/app"))],
        {"repository": "same"},
        REFUSED,
        "is for ghcr.io/evil/app",
    ),
    "the same repository": (lambda by: [simple(by.ours, CLAIMS)], {"repository": "same"}, PASSED, ""),
    "the same repository with a tag": (
        lambda by: [simple(by.ours, simple_payload(DIGEST, f"{REPOSITORY}:v1"))],
        {"repository": "same"},
        PASSED,
        "",
    ),
    "the name it was signed under": (
        lambda by: [simple(by.ours, simple_payload(DIGEST, "ghcr.io/acme/app"))],
        {"repository": "ghcr.io/acme/app"},
        PASSED,
        "",
    ),
    "no repository, bundle": (
        lambda by: [bundled(signed_bundle(by.ours, STATEMENT))],
        {"repository": "same"},
        REFUSED,
        "names no repository",
    ),
    "no valid repository": (
        lambda by: [simple(by.ours, simple_payload(DIGEST, "../../etc"))],
        {"repository": "same"},
        REFUSED,
        "no valid repository",
    ),
}


@pytest.mark.parametrize(
    ("stored", "rule", "verdict", "word"),
    CASES.values(),
    ids=[f"{name} -> {case[2]}" for name, case in CASES.items()],
)
def test_signatures(
    keys: Keys, stored: Callable[[Keys], list[Stored]], rule: dict[str, Any], verdict: Verdict, word: str
) -> None:
    several: dict[str, Any] = {"keys": [one.public for one in keys.trusted]} if "threshold" in rule else {}
    attached = stored(keys)
    decision = judge(keys, attached, **several, **rule)

    assert (decision.verdict, word in decision.message) == (verdict, True), decision.message
    assert decision.code is (Code.GATE_PASSED if verdict is PASSED else Code.UNSIGNED)
    # The same a moment after the push: what is missing may still come, and nothing else changes.
    early = judge(keys, attached, waited=1, **several, **rule)
    assert early.verdict is (PASSED if verdict is PASSED else UNKNOWN)


@pytest.mark.parametrize(
    ("name", "digest"), [("ours", "sha256"), ("p384", "sha384"), ("p384", "sha256"), ("rsa", "sha256"), ("ed25519", "")]
)
def test_all_kinds_of_keys_that_cosign_makes_are_known(keys: Keys, name: str, digest: str) -> None:
    key: SigningKey = getattr(keys, name)
    signatures = [
        simple(key, CLAIMS, key.sign(CLAIMS, digest)),
        bundled(signed_bundle(key, STATEMENT, digest)),
    ]
    for one in signatures:
        assert judge(keys, [one], keys=[key.public]).verdict is PASSED
        assert judge(keys, [one]).verdict is (PASSED if name == "ours" else REFUSED)


def test_the_second_signature_that_ecdsa_allows_is_no_second_signer(keys: Keys) -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signature = keys.ours.sign(CLAIMS)
    r, s = (
        int(line.split(":")[-1], 16)
        for line in openssl("asn1parse", "-inform", "DER", given=signature).decode().splitlines()[1:]
    )
    other = _der(r, order - s)
    assert judge(keys, [simple(keys.ours, CLAIMS, other)]).verdict is PASSED
    both = [simple(keys.ours, CLAIMS, signature), simple(keys.ours, CLAIMS, other)]
    assert judge(keys, both, keys=[keys.ours.public, keys.second.public], threshold=2).verdict is REFUSED


def _der(*numbers: int) -> bytes:
    encoded = [one.to_bytes(one.bit_length() // 8 + 1, "big") for one in numbers]
    body = b"".join(b"\x02" + bytes([len(one)]) + one for one in encoded)
    return b"\x30" + bytes([len(body)]) + body


def test_no_changed_byte_lets_another_claim_pass(keys: Keys) -> None:
    """Each byte of what the registry has is changed, one after the other: at most what is not signed still passes."""
    rule = Rule.model_validate({"keys": [keys.ours.public]})
    passed = 0
    for one in (simple(keys.ours, CLAIMS), bundled(signed_bundle(keys.ours, STATEMENT))):
        for place in range(len(one.content)):
            for flip in (0x01, 0x20, 0x80):
                content = bytearray(one.content)
                content[place] ^= flip
                found = verify({Digest(DIGEST): Attached((dataclasses.replace(one, content=bytes(content)),))}, rule)
                for signed in found.signed[Digest(DIGEST)]:
                    passed += 1
                    assert signed.claims.digests == {DIGEST}
    # A key's hint, what names the members around it, and the like.
    assert 0 < passed < 1500


# -- what is not known


def test_a_fault_is_never_a_missing_signature_and_never_one_that_is_there(keys: Keys) -> None:
    limited = Attached(faults=(Reason(Code.RATE_LIMITED, "slow down"),), retry_after=90)
    waits = judge(keys, [simple(keys.theirs, CLAIMS)], waited=10_000, attached=limited)
    assert (waits.verdict, waits.code) == (UNKNOWN, Code.RATE_LIMITED)
    assert waits.ask_again_at == NOW + timedelta(seconds=90)
    # What is there and valid suffices.
    assert judge(keys, [simple(keys.ours, CLAIMS)], attached=limited).verdict is PASSED


def test_too_many_signatures_are_said_and_do_not_refuse(keys: Keys) -> None:
    drowned = Attached(left_out=936)
    waits = judge(keys, [simple(keys.theirs, CLAIMS)], waited=10_000, attached=drowned)
    assert (waits.verdict, waits.code) == (UNKNOWN, Code.GATE_UNANSWERED)
    assert "936 were left out" in waits.message


def test_a_late_signature_is_looked_for_at_growing_intervals_until_the_wait_ends(keys: Keys) -> None:
    asked = [judge(keys, [], waited=waited).ask_again_at for waited in (0, 20, 50, 59)]
    assert asked == [NOW + timedelta(seconds=seconds) for seconds in (3, 10, 10, 1)]
    assert judge(keys, [], waited=59, wait=300).verdict is UNKNOWN
    assert judge(keys, [], waited=300, wait="5m").verdict is REFUSED


def test_a_passed_verdict_holds_for_a_while_only(keys: Keys) -> None:
    until = judge(keys, [simple(keys.ours, CLAIMS)]).true_until
    assert until == NOW + timedelta(hours=1)


# -- the rule


WRONG_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "nobody is trusted": ({}, "give keys or identities"),
    "a key of a key service": ({"keys": ["awskms:///alias/signing"]}, "cosign public-key --key awskms:"),
    "a key in Kubernetes": ({"keys": ["k8s://ns/secret"]}, "asks no key service"),
    "a file": ({"keys": ["cosign.pub"]}, "-----BEGIN PUBLIC KEY-----"),
    "an address": ({"keys": ["https://example.com/cosign.pub"]}, "give the public key itself in PEM"),
    "a threshold that nobody reaches": ({"keys": "ours", "threshold": 2}, "only 1 keys and identities"),
    "a threshold of none": ({"keys": "ours", "threshold": 0}, "greater than or equal to 1"),
    "a misspelt field": ({"keys": "ours", "anotations": {}}, "Extra inputs are not permitted"),
    "no repository": ({"keys": "ours", "repository": "../x"}, "give 'same', or the name that was signed"),
    "an endless wait": ({"keys": "ours", "wait": "2d"}, "at most 24h"),
}


@pytest.mark.parametrize(("rule", "message"), WRONG_RULES.values(), ids=WRONG_RULES)
def test_a_rule_that_would_not_protect_is_refused(keys: Keys, rule: dict[str, Any], message: str) -> None:
    given = {**rule, "keys": [keys.ours.public]} if rule.get("keys") == "ours" else rule
    with pytest.raises(ValidationError, match=message):
        Rule.model_validate(given)


def test_other_keys_are_refused_with_what_to_give_instead(keys: Keys, tmp_path: Path) -> None:
    wrong = {
        "no key of these kinds: ECDSA": SigningKey.generate(tmp_path, "P-521").public,
        "RSA of 2048": SigningKey.generate(tmp_path, "RSA-1024").public,
        "is a private key": keys.ours.private.read_text(),
        "a key is there twice": keys.ours.public.replace("-----BEGIN", "\n-----BEGIN"),
        "is not one public key": keys.ours.public + keys.second.public,
    }
    for message, key in wrong.items():
        with pytest.raises(ValidationError, match=message):
            Rule.model_validate({"keys": [keys.ours.public, key]})


def test_keys_may_be_given_as_files_are_printed(keys: Keys) -> None:
    both = [one.public for one in keys.trusted]
    assert Rule.model_validate({"keys": "\n".join(both)}).public_keys == Rule.model_validate({"keys": both}).public_keys
    for wrong in (both[0] + "rubbish", "rubbish", both[0][:-20]):
        with pytest.raises(ValidationError, match=r"is not (one|a) public key"):
            Rule.model_validate({"keys": wrong})


def test_a_rule_is_stored_as_it_was_written(keys: Keys) -> None:
    written = {"keys": [keys.ours.public], "annotations": {"env": "prod"}, "wait": "2m"}
    stored = Rule.model_validate(written).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert stored == written
