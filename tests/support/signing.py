"""Signs images as cosign does, with the openssl command: nothing of what the gateway verifies with is used here."""

import base64
import hashlib
import json
import subprocess
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
SIGN = "https://sigstore.dev/cosign/sign/v1"

ALGORITHMS = {
    "P-256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "P-384": ("EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "P-521": ("EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
    "RSA": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "RSA-1024": ("RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
    "Ed25519": ("ED25519",),
}


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@dataclass(frozen=True)
class SigningKey:
    """A private key in a file, and its public half in PEM."""

    private: Path
    algorithm: str

    @classmethod
    def generate(cls, directory: Path, algorithm: str = "P-256", name: str = "key") -> "SigningKey":
        private = directory / f"{name}-{algorithm}.pem"
        openssl("genpkey", "-algorithm", *ALGORITHMS[algorithm], "-out", str(private))
        return cls(private, algorithm)

    @cached_property
    def public(self) -> str:
        return openssl("pkey", "-in", str(self.private), "-pubout").decode()

    @cache  # noqa: B019 - few keys, made for the tests of one module
    def sign(self, message: bytes, digest: str = "sha256") -> bytes:
        if self.algorithm != "Ed25519":
            return openssl("dgst", f"-{digest}", "-sign", str(self.private), given=message)
        content = self.private.with_suffix(".message")
        content.write_bytes(message)
        return openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(self.private), "-in", str(content))


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def simple_payload(digest: str, reference: str = "registry.example.com/acme/app", **optional: Any) -> bytes:
    """Return the text that cosign signs, in its form."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": optional or None}, separators=(",", ":")).encode()


def statement(digest: str, predicate_type: str = SIGN, predicate: Any = None, **subject: Any) -> bytes:
    """Return an in-toto statement about an image."""
    about = {"digest": {"sha256": digest.removeprefix("sha256:")}, **subject}
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [about],
            "predicateType": predicate_type,
            "predicate": predicate or {},
        }
    ).encode()


def pae(payload: bytes, kind: str = IN_TOTO) -> bytes:
    """Return what is signed of an envelope: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload])


def envelope(payload: bytes, *signatures: bytes) -> dict[str, Any]:
    return {
        "payloadType": IN_TOTO,
        "payload": b64(payload),
        "signatures": [{"sig": b64(one), "keyid": ""} for one in signatures],
    }


def bundle(content: dict[str, Any], material: dict[str, Any] | None = None) -> bytes:
    """Return a Sigstore bundle; `content` has its dsseEnvelope or messageSignature."""
    own = {"publicKey": {"hint": "of-the-key"}} if material is None else material
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": own, **content}).encode()


def signed_bundle(key: SigningKey, payload: bytes, digest: str = "sha256") -> bytes:
    return bundle({"dsseEnvelope": envelope(payload, key.sign(pae(payload), digest))})


def message_bundle(key: SigningKey, manifest: bytes) -> bytes:
    """Return a bundle with a signature of the manifest itself."""
    hashed = {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(manifest).digest())}
    return bundle({"messageSignature": {"messageDigest": hashed, "signature": b64(key.sign(manifest))}})
