"""What a registry has beside an image, as parsers of it are fuzzed: whoever may push has written it."""

import json
from collections.abc import Callable
from contextlib import suppress

import orjson
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.gates._cosign import Invalid, Trust, examine
from gateway.gates._public_keys import PublicKey
from gateway.gates.provenance import parse_provenance
from gateway.model.errors import Postponed
from gateway.model.reference import Digest, Domain
from gateway.registry.attached import (
    ATTESTATIONS,
    SIGNATURES,
    Form,
    Stored,
    likely_first,
    parse_referrers,
    wanted_layers,
)
from gateway.registry.errors import Subject
from gateway.registry.responses import INDEXES, Answer
from tests.support.signing import bundle, envelope, simple_payload, statement

_DIGEST = Digest("sha256:" + 64 * "0")
_SUBJECT = Subject(Domain("registry.example.com"), "an image")
_KEY = (
    ec.derive_private_key(1, ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)
_TRUST = Trust([PublicKey.parse(_KEY.decode())])
_SIGNATURE = {"dev.cosignproject.cosign/signature": "MAYCAQECAQE="}

KEYS = [_KEY.decode(), "awskms:///alias/a", "-----BEGIN CERTIFICATE-----"]
SIGNED = [
    simple_payload(_DIGEST),
    json.dumps(envelope(statement(_DIGEST), b"\x30\x06\x02\x01\x01\x02\x01\x01")).encode(),
    bundle({"dsseEnvelope": envelope(statement(_DIGEST), b"0")}),
    bundle({"messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": "AA=="}, "signature": "AA=="}}),
]
LISTED = [
    json.dumps({"manifests": [{"digest": _DIGEST, "artifactType": "a", "annotations": {}}]}).encode(),
    json.dumps({"layers": [{"mediaType": Form.BUNDLE, "digest": _DIGEST, "size": 3, "annotations": {}}]}).encode(),
]


def examine_all(storable: Callable[[str], bool]) -> Callable[[bytes], None]:
    """Return a function that examines a content in all forms: nothing unsigned is signed."""

    def run(data: bytes) -> None:
        for form in Form:
            found = examine(Stored(form, data, _SIGNATURE, "here"), _TRUST, _DIGEST)
            assert isinstance(found, Invalid)
            assert storable(found.reason)

    return run


def list_all(data: bytes) -> None:
    """Read a list of the referrers API, and a manifest."""
    with suppress(Postponed):
        entries = parse_referrers(Answer(200, {"Content-Type": INDEXES[0]}, data), _SUBJECT)
        assert len(likely_first(entries, SIGNATURES)) <= len(entries)
    with suppress(ValueError):
        found = orjson.loads(data)
        if isinstance(found, dict):
            for wanted in (SIGNATURES, ATTESTATIONS):
                _ = list(wanted_layers(found, wanted, "here"))
            _ = parse_provenance("https://slsa.dev/provenance/v1", found)
            _ = parse_provenance("https://slsa.dev/provenance/v0.2", found)


def parse_key(text: str) -> None:
    with suppress(ValueError):
        _ = PublicKey.parse(text)
