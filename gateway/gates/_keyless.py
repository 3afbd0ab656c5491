"""Signatures without a key of the signer's own: a certificate of Fulcio for minutes, and an entry in the log Rekor.

The library sigstore verifies: the certificate's chain and its own entry in a log, the log entry by its proof of
inclusion or its promise, the time of that entry within the certificate's validity, and the signature. What it trusts
is given as https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_trustroot.proto in JSON. Nothing is
requested from the network.

Signatures as cosign 2 stores them have the promise alone, which the library's public interface does not accept. Its
private parts verify it; tests/unit/gates/test_keyless.py holds them.
"""

import base64
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from gateway.gates._claims import Envelope
from gateway.gates._identities import Identity
from gateway.gates._strict_json import Malformed, member, parse_object, text_member

MISSING_PACKAGE = "the sigstore package is needed for signatures without keys: pip install 'pushdeploy[keyless]'"

_ISSUERS = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")
_MAX_PEM = 16 * 1024  # characters


def is_installed() -> bool:
    return importlib.util.find_spec("sigstore") is not None


@dataclass(frozen=True, slots=True)
class Simple:
    """A signature as cosign 2 stores it: what is signed, and the annotations beside it."""

    content: bytes | Envelope
    signature: bytes
    certificate: str
    log_entry: str


class Keyless:
    """Verifies signatures against one trusted root. `identities` are those of signers that are trusted."""

    def __init__(self, trusted_root: str, identities: Sequence[Identity]) -> None:
        """Raises ValueError for a trusted root that is none, or where sigstore is not installed."""
        self._verifier = _open(trusted_root)
        self._identities = identities

    def signers_of_bundle(self, content: bytes, signed: Envelope | bytes) -> tuple[str, ...]:
        """Return the trusted identities that signed the bundle. `signed`: its envelope, or the SHA-256 of the message.

        Raises Malformed, with the reason, if there are none.
        """
        models, hashes = importlib.import_module("sigstore.models"), importlib.import_module("sigstore.hashes")
        common = importlib.import_module("sigstore_models.common.v1")

        def verify(policy: "_Policy") -> None:
            bundle = models.Bundle.from_json(content)
            if isinstance(signed, bytes):
                hashed = hashes.Hashed(algorithm=common.HashAlgorithm.SHA2_256, digest=signed)
                self._verifier.verify_artifact(hashed, bundle, policy)
            else:
                _check_same(self._verifier.verify_dsse(bundle, policy), signed)

        return self._signers(verify)

    def signers_of_simple(self, stored: Simple) -> tuple[str, ...]:
        """Return the trusted identities that signed; raises Malformed, with the reason, if there are none."""

        def verify(policy: "_Policy") -> None:
            bundle = _bundle_of(stored)
            if isinstance(stored.content, bytes):
                self._verifier.verify_artifact(stored.content, bundle, policy)
            else:
                _check_same(self._verifier.verify_dsse(bundle, policy), stored.content)

        return self._signers(verify)

    def _signers(self, verify: "Callable[[_Policy], None]") -> tuple[str, ...]:
        policy = _Policy(self._identities)
        try:
            verify(policy)
        except Exception as error:  # of whatever kind: what is verified was made by anybody
            raise Malformed(f"has no valid certificate and log entry: {str(error)[:300]}") from error
        if not policy.signer:
            raise Malformed("has a certificate that nothing was compared with")
        return (policy.signer,)


@lru_cache(maxsize=8)
def _open(trusted_root: str) -> Any:
    if not is_installed():
        raise ValueError(MISSING_PACKAGE)
    models = importlib.import_module("sigstore.models")
    verify = importlib.import_module("sigstore.verify")
    roots = importlib.import_module("sigstore_models.trustroot.v1")
    try:
        return verify.Verifier(trusted_root=models.TrustedRoot(roots.TrustedRoot.from_json(trusted_root)))
    except Exception as error:  # whatever the library meets in what was given
        raise ValueError(f"is not a trusted root of Sigstore: {str(error)[:300]}") from error


@dataclass(slots=True)
class _Policy:
    """Compares a certificate's identity and issuer with the trusted ones, for sigstore, and notes who signed.

    A signer is who the certificate names, however many of the trusted ones that matches.
    """

    identities: Sequence[Identity]
    signer: str = ""

    def verify(self, cert: Any) -> None:
        names, issuer = _names(cert), _issuer(cert)
        whom = ", ".join(sorted(names)) or "nobody"
        if not issuer or not any(one.matches(name, issuer) for one in self.identities for name in names):
            raise ValueError(f"the certificate is for {whom}, by the issuer {issuer or '(none)'}")
        self.signer = f"identity {whom} of {issuer}"


def _names(certificate: Any) -> list[str]:
    """Return the identities in a certificate: addresses of mail and URIs, as text."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier)
    return [name for kind in kinds for name in found.get_values_for_type(kind) if name.isprintable()]


def _issuer(certificate: Any) -> str:
    """Return who vouched for the identity: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md.

    Of both extensions the newer one counts, a DER text.
    """
    from cryptography import x509

    for oid in _ISSUERS:
        try:
            value: bytes = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value.value
        except x509.ExtensionNotFound:
            continue
        if oid == _ISSUERS[0]:
            # A text of up to 127 bytes, or of up to 255: X.690, 8.1.3.
            start = 3 if value[1:2] == b"\x81" else 2
            if value[:1] != b"\x0c" or value[start - 1] != len(value) - start:
                raise ValueError("the certificate names its issuer in no valid form")
            value = value[start:]
        return value.decode()
    return ""


def _check_same(verified: tuple[str, bytes], envelope: Envelope) -> None:
    if verified != (envelope.payload_type, envelope.payload):
        raise ValueError("the bundle was read in two ways")


# -- as cosign 2 stores it


def _bundle_of(stored: Simple) -> Any:
    """Return a bundle with a log entry that has a promise and no proof."""
    from cryptography import x509

    models = importlib.import_module("sigstore.models")
    dsse, common = (
        importlib.import_module("sigstore_models.intoto"),
        importlib.import_module("sigstore_models.common.v1"),
    )

    class PromisedEntry(models.TransparencyLogEntry):  # type: ignore[name-defined,misc]  # of an optional package
        def _validate(self) -> None:
            """Accept an entry without a proof."""

        def _verify(self, keyring: Any) -> None:
            self._verify_set(keyring)

    class Stored(models.Bundle):  # type: ignore[name-defined,misc]  # of an optional package
        def _verify(self) -> None:
            self._signing_certificate = x509.load_pem_x509_certificate(stored.certificate.encode())
            self._log_entry = PromisedEntry(_entry(stored.log_entry))

    signature, message, envelope = base64.b64encode(stored.signature), None, None
    if isinstance(stored.content, bytes):
        message = common.MessageSignature(signature=signature)
    else:
        envelope = dsse.Envelope(
            payload=base64.b64encode(stored.content.payload),
            payload_type=stored.content.payload_type,
            signatures=[dsse.Signature(sig=signature)],
        )
    if len(stored.certificate) > _MAX_PEM:
        raise Malformed("has a certificate that is too large")
    material = SimpleNamespace(timestamp_verification_data=None)
    return Stored(SimpleNamespace(message_signature=message, dsse_envelope=envelope, verification_material=material))


def _entry(text: str) -> Any:
    """Return the log entry in an annotation of cosign 2. Raises Malformed."""
    found = parse_object(text.encode())
    body, log = text_member(found, "Payload", "body"), text_member(found, "Payload", "logID")
    time, index = member(found, "Payload", "integratedTime"), member(found, "Payload", "logIndex")
    if not _is_count(time) or not _is_count(index):
        raise Malformed("has a log entry without its time and index")
    canonical = base64.b64decode(body, validate=True)
    kind = parse_object(canonical)
    promise = base64.b64decode(text_member(found, "SignedEntryTimestamp"), validate=True)
    return SimpleNamespace(
        log_index=index,
        log_id=SimpleNamespace(key_id=bytes.fromhex(log)),
        kind_version=SimpleNamespace(kind=text_member(kind, "kind"), version=text_member(kind, "apiVersion")),
        integrated_time=time,
        inclusion_promise=SimpleNamespace(signed_entry_timestamp=promise),
        inclusion_proof=None,
        canonicalized_body=canonical,
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53
