"""Verify what is attached to an image, in all forms in which cosign stores it. Bytes in, statements out.

What does not verify does not hurt what does: each is examined alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.gates._claims import Claims, Envelope, parse_envelope, parse_simple, parse_statement
from gateway.gates._encodings import decode_base64
from gateway.gates._keyless import Keyless, Simple
from gateway.gates._strict_json import Malformed, member, parse_object, text_member
from gateway.model.errors import truncate
from gateway.model.reference import Digest
from gateway.registry.attached import Form, Stored

if TYPE_CHECKING:
    from gateway.gates._public_keys import PublicKey

_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_LOG_ENTRY = "dev.sigstore.cosign/bundle"
_BUNDLES = frozenset(
    {
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.dev.sigstore.bundle+json;version=0.3",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        "application/vnd.dev.sigstore.bundle+json;version=0.1",
    }
)
_MAX_REASON = 400  # characters
_NOBODY = "is signed by nobody who is trusted"


@dataclass(frozen=True, slots=True)
class Signed:
    """Claims that trusted signers have signed, each named once."""

    claims: Claims
    signers: frozenset[str]
    place: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """What does not verify, and why: in one line, since the reason may quote what anybody has written."""

    reason: str
    place: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", truncate(" ".join(self.reason.split()), _MAX_REASON))


@dataclass(frozen=True, slots=True)
class Trust:
    """Who is trusted."""

    keys: "Sequence[PublicKey]"
    keyless: Keyless | None = None


def examine(stored: Stored, trust: Trust, digest: Digest) -> Signed | Invalid:
    """Verify one signature or attestation of the image with this digest. What it claims is not judged."""
    try:
        claims, signers = _EXAMINERS[stored.form](stored, trust, digest)
    except Malformed as error:
        return Invalid(str(error), stored.place)
    return Signed(claims, frozenset(signers), stored.place) if signers else Invalid(_NOBODY, stored.place)


_Found = tuple[Claims, Sequence[str]]


def _simple(stored: Stored, trust: Trust, _digest: Digest) -> _Found:
    signature = _decode(stored.annotations.get(_SIGNATURE, ""))
    signers = [_name(key) for key in trust.keys if key.has_signed(stored.content, signature)]
    return parse_simple(stored.content), signers or _keyless(stored, trust, stored.content, signature)


def _envelope(stored: Stored, trust: Trust, digest: Digest) -> _Found:
    envelope = parse_envelope(parse_object(stored.content))
    signers = _signers_of(envelope, trust)
    return parse_statement(envelope.payload, digest), signers or _keyless(
        stored, trust, envelope, envelope.signatures[0]
    )


def _bundle(stored: Stored, trust: Trust, digest: Digest) -> _Found:
    found = parse_object(stored.content)
    if text_member(found, "mediaType") not in _BUNDLES:
        raise Malformed("is a bundle of a version that is not known")
    envelope, message = member(found, "dsseEnvelope"), member(found, "messageSignature")
    if isinstance(envelope, Mapping) == isinstance(message, Mapping):
        raise Malformed("is a bundle without one signature")
    signed: Envelope | bytes
    if isinstance(envelope, Mapping):
        parsed = parse_envelope(envelope)
        claims, signed, signers = parse_statement(parsed.payload, digest), parsed, _signers_of(parsed, trust)
    else:
        claims, signed, signers = _message(message, trust, digest)
    if not signers and trust.keyless is not None and _has_certificate(found):
        signers = trust.keyless.signers_of_bundle(stored.content, signed)
    return claims, signers


def _message(message: Mapping[str, Any], trust: Trust, digest: Digest) -> tuple[Claims, bytes, Sequence[str]]:
    """Verify a signature of the image's manifest itself, whose SHA-256 is the image's digest."""
    hashed = bytes.fromhex(digest.removeprefix("sha256:"))
    algorithm = text_member(message, "messageDigest", "algorithm")
    if algorithm != "SHA2_256" or _decode(text_member(message, "messageDigest", "digest")) != hashed:
        raise Malformed("signs something else than this image's manifest")
    signature = _decode(text_member(message, "signature"))
    signers = [_name(key) for key in trust.keys if key.has_signed_sha256(hashed, signature)]
    return Claims(frozenset({digest}), of_image=True), hashed, signers


def _signers_of(envelope: Envelope, trust: Trust) -> Sequence[str]:
    signed = envelope.signed
    return [_name(key) for key in trust.keys if any(key.has_signed(signed, one) for one in envelope.signatures)]


def _keyless(stored: Stored, trust: Trust, content: bytes | Envelope, signature: bytes) -> Sequence[str]:
    certificate, entry = stored.annotations.get(_CERTIFICATE, ""), stored.annotations.get(_LOG_ENTRY, "")
    if trust.keyless is None or not certificate:
        return ()
    if not entry:
        raise Malformed("has a certificate, but no entry of a transparency log")
    return trust.keyless.signers_of_simple(Simple(content, signature, certificate, entry))


def _has_certificate(found: Mapping[str, Any]) -> bool:
    material = member(found, "verificationMaterial")
    return isinstance(material, Mapping) and not {"certificate", "x509CertificateChain"}.isdisjoint(material)


def _decode(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:
        raise Malformed(f"has a signature that {error}") from error


def _name(key: "PublicKey") -> str:
    return f"key sha256:{key.fingerprint}"


_EXAMINERS = {Form.SIMPLE: _simple, Form.ENVELOPE: _envelope, Form.BUNDLE: _bundle}
