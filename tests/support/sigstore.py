"""A Sigstore of the tests' own: Fulcio, which gives certificates, its log, and Rekor, the log of signatures.

It is made from the specifications, with nothing of the library that verifies:

    https://github.com/sigstore/fulcio/blob/main/docs/certificate-specification.md
    https://www.rfc-editor.org/rfc/rfc6962
    https://github.com/sigstore/rekor/blob/main/types.md
    https://github.com/C2SP/C2SP/blob/main/tlog-checkpoint.md
"""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.signing import b64, bundle, envelope, pae

Key = ec.EllipticCurvePrivateKey

SIGNED_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORKFLOW = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
GITHUB = "https://token.actions.githubusercontent.com"

_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_START = {"start": "2020-01-01T00:00:00Z"}


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def der(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Key, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def log_id(key: Key) -> bytes:
    return hashlib.sha256(der(key)).digest()


@dataclass(frozen=True)
class Given:
    """What a signer is given, and what Rekor notes of it. A test changes one thing."""

    identity: str = WORKFLOW
    issuer: str = GITHUB
    issued_at: datetime = SIGNED_AT
    integrated_at: datetime = SIGNED_AT + timedelta(minutes=1)
    valid_for: timedelta = timedelta(minutes=10)
    #: what the log entry is about, if not what was signed
    logged: bytes | None = None
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING


@dataclass
class Sigstore:
    """The keys of all its parts, and the certificate of its authority."""

    root: Key = field(default_factory=new_key)
    ct_log: Key = field(default_factory=new_key)
    rekor: Key = field(default_factory=new_key)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sigstore")])
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self.certificate = (
            x509.CertificateBuilder(name, name, self.root.public_key(), 1)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.root.public_key()), critical=False)
            .sign(self.root, hashes.SHA256())
        )

    @property
    def trusted_root(self) -> dict[str, Any]:
        def log(key: Key) -> dict[str, Any]:
            public = {"rawBytes": b64(der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": _START}
            own = {"keyId": b64(log_id(key))}
            return {"baseUrl": "https://log.test", "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": own}

        chain = {"certificates": [{"rawBytes": b64(self.certificate.public_bytes(Encoding.DER))}]}
        authority = {
            "subject": {"organization": "test", "commonName": "sigstore"},
            "uri": "https://fulcio.test",
            "certChain": chain,
            "validFor": _START,
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor)],
            "certificateAuthorities": [authority],
            "ctlogs": [log(self.ct_log)],
            "timestampAuthorities": [],
        }

    # -- Fulcio

    def issue(self, key: Key, given: Given) -> x509.Certificate:
        """Return a certificate with the timestamp of its own log entry in it."""
        name: x509.GeneralName = (
            x509.UniformResourceIdentifier(given.identity)
            if "://" in given.identity
            else x509.RFC822Name(given.identity)
        )
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        issuer = given.issuer.encode()
        builder = (
            x509.CertificateBuilder(self.certificate.subject, x509.Name([]), key.public_key(), 1000)
            .not_valid_before(given.issued_at)
            .not_valid_after(given.issued_at + given.valid_for)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([given.usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer), critical=False)
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER_V2, b"\x0c" + bytes([len(issuer)]) + issuer), critical=False
            )
        )
        before = builder.sign(self.root, hashes.SHA256())
        timestamp = self._timestamp(before.tbs_certificate_bytes, given.issued_at)
        return builder.add_extension(x509.UnrecognizedExtension(_SCTS, timestamp), critical=False).sign(
            self.root, hashes.SHA256()
        )

    def _timestamp(self, tbs: bytes, at: datetime) -> bytes:
        milliseconds = struct.pack(">Q", int(at.timestamp() * 1000))
        entry = hashlib.sha256(der(self.root)).digest() + len(tbs).to_bytes(3, "big") + tbs
        signature = sign(self.ct_log, b"\0\0" + milliseconds + b"\0\1" + entry + b"\0\0")
        sized = b"\4\3" + struct.pack(">H", len(signature)) + signature
        timestamp = b"\0" + log_id(self.ct_log) + milliseconds + b"\0\0" + sized
        listed = struct.pack(">H", len(timestamp)) + timestamp
        content = struct.pack(">H", len(listed)) + listed
        return b"\x04" + (bytes([len(content)]) if len(content) < 128 else b"\x81" + bytes([len(content)])) + content

    # -- Rekor

    def log(self, body: dict[str, Any], at: datetime) -> "Logged":
        return Logged(self, json.dumps(body, separators=(",", ":"), sort_keys=True).encode(), int(at.timestamp()))

    # -- signatures

    def bundle(self, payload: bytes, given: Given | None = None, *, without: str = "") -> dict[str, Any]:
        """Return a bundle with an envelope, as cosign 3 makes it; `without` names a part of the log entry."""
        own, key = given or Given(), new_key()
        certificate, signature = self.issue(key, own), sign(key, pae(payload))
        logged = self.log(_dsse_entry(own.logged or payload, signature, certificate), own.integrated_at)
        entry = logged.entry("dsse")
        entry.pop(without, None)
        material = {
            "certificate": {"rawBytes": b64(certificate.public_bytes(Encoding.DER))},
            "tlogEntries": [entry] if without != "all" else [],
            "timestampVerificationData": {},
        }
        found: dict[str, Any] = json.loads(bundle({"dsseEnvelope": envelope(payload, signature)}, material))
        return found

    def stamped_bundle(
        self, payload: bytes, stamp: Callable[[bytes], bytes], given: Given | None = None
    ) -> dict[str, Any]:
        """Return a bundle as cosign makes it with the second version of Rekor, whose entries tell no time.

        https://github.com/sigstore/rekor-tiles/blob/main/CLIENTS.md
        """
        own, key = given or Given(), new_key()
        certificate, signature = self.issue(key, own), sign(key, pae(payload))
        raw = {"rawBytes": b64(certificate.public_bytes(Encoding.DER))}
        verifier = {"x509Certificate": raw, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
        hashed = {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(pae(own.logged or payload)).digest())}
        spec = {"hashedRekordV002": {"data": hashed, "signature": {"content": b64(signature), "verifier": verifier}}}
        entry = self.log({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec}, own.integrated_at).entry(
            "hashedrekord", "0.0.2"
        )
        for name in ("integratedTime", "inclusionPromise"):
            del entry[name]
        stamps = {"rfc3161Timestamps": [{"signedTimestamp": b64(stamp(signature))}]}
        material = {"certificate": raw, "tlogEntries": [entry], "timestampVerificationData": stamps}
        found: dict[str, Any] = json.loads(bundle({"dsseEnvelope": envelope(payload, signature)}, material))
        return found

    def simple(self, content: bytes, given: Given | None = None) -> tuple[bytes, dict[str, str]]:
        """Return a signature of the text, and the annotations beside it, as cosign 2 makes them."""
        own, key = given or Given(), new_key()
        certificate, signature = self.issue(key, own), sign(key, content)
        logged = self.log(_hashed_entry(own.logged or content, signature, certificate), own.integrated_at)
        return signature, logged.annotations(certificate)

    def attestation(self, payload: bytes, given: Given | None = None) -> tuple[bytes, dict[str, str]]:
        """Return an envelope, and the annotations beside it, as cosign 2 makes them."""
        own, key = given or Given(), new_key()
        certificate, signature = self.issue(key, own), sign(key, pae(payload))
        logged = self.log(_dsse_entry(payload, signature, certificate), own.integrated_at)
        return json.dumps(envelope(payload, signature)).encode(), logged.annotations(certificate)


@dataclass(frozen=True)
class Logged:
    """An entry of Rekor, the second of two."""

    sigstore: Sigstore
    body: bytes
    at: int

    @property
    def _noted(self) -> dict[str, Any]:
        own = log_id(self.sigstore.rekor).hex()
        return {"body": b64(self.body), "integratedTime": self.at, "logID": own, "logIndex": 1}

    @property
    def promise(self) -> bytes:
        canonical = json.dumps(self._noted, separators=(",", ":"), sort_keys=True)
        return sign(self.sigstore.rekor, canonical.encode())

    def entry(self, kind: str, version: str = "0.0.1") -> dict[str, Any]:
        """Return the entry as bundles have it, with its proof and its promise."""
        rekor = self.sigstore.rekor
        first = hashlib.sha256(b"\0first").digest()
        root = hashlib.sha256(b"\1" + first + hashlib.sha256(b"\0" + self.body).digest()).digest()
        note = f"rekor.test - 1\n2\n{b64(root)}\n"
        signature = b64(log_id(rekor)[:4] + sign(rekor, note.encode()))
        return {
            "logIndex": "1",
            "logId": {"keyId": b64(log_id(rekor))},
            "kindVersion": {"kind": kind, "version": version},
            "integratedTime": str(self.at),
            "inclusionPromise": {"signedEntryTimestamp": b64(self.promise)},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": b64(root),
                "treeSize": "2",
                "hashes": [b64(first)],
                "checkpoint": {"envelope": f"{note}\n\N{EM DASH} rekor.test {signature}\n"},
            },
            "canonicalizedBody": b64(self.body),
        }

    def annotations(self, certificate: x509.Certificate) -> dict[str, str]:
        entry = {"SignedEntryTimestamp": b64(self.promise), "Payload": self._noted}
        return {
            "dev.sigstore.cosign/certificate": certificate.public_bytes(Encoding.PEM).decode(),
            "dev.sigstore.cosign/chain": self.sigstore.certificate.public_bytes(Encoding.PEM).decode(),
            "dev.sigstore.cosign/bundle": json.dumps(entry),
        }


def _utf8(text: bytes) -> bytes:
    return b"\x0c" + bytes([len(text)]) + text


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _pem(certificate: x509.Certificate) -> str:
    return b64(certificate.public_bytes(Encoding.PEM))


def _hashed_entry(content: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, Any]:
    proof = {"content": b64(signature), "publicKey": {"content": _pem(certificate)}}
    return {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {"data": {"hash": _hash(content)}, "signature": proof},
    }


def _dsse_entry(payload: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, Any]:
    proofs = [{"signature": b64(signature), "verifier": _pem(certificate)}]
    spec = {"envelopeHash": _hash(b"whatever its form"), "payloadHash": _hash(payload), "signatures": proofs}
    return {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}
