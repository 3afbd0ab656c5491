"""What a signed text claims: which image, under which name, with which annotations.

simple signing   https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md#simple-signing
statement        https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, in a DSSE envelope
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.gates._encodings import decode_base64
from gateway.gates._strict_json import Malformed, member, parse_object, text_member

SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
IN_TOTO = "application/vnd.in-toto+json"

_SIMPLE_TYPE = "cosign container image signature"
_STATEMENTS = frozenset({"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"})
_MAX_SIGNATURES = 4  # of one envelope
_MAX_SUBJECTS = 1024


@dataclass(frozen=True, slots=True)
class Claims:
    """What is signed. `digests` are those of images, `name` is "" where none is claimed."""

    digests: frozenset[str]
    name: str = ""
    annotations: Mapping[str, Any] = field(default_factory=dict)
    predicate_type: str = ""
    predicate: Mapping[str, Any] = field(default_factory=dict)
    #: whether this is a signature of an image, and no attestation about one
    of_image: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md."""

    payload_type: str
    payload: bytes
    signatures: tuple[bytes, ...]

    @property
    def signed(self) -> bytes:
        """The bytes that are signed."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


def parse_simple(content: bytes) -> Claims:
    """Parse a text in the format of simple signing. Raises Malformed."""
    found = parse_object(content)
    if text_member(found, "critical", "type") != _SIMPLE_TYPE:
        raise Malformed(f"is not of type {_SIMPLE_TYPE!r}")
    optional = found.get("optional")
    return Claims(
        frozenset({text_member(found, "critical", "image", "docker-manifest-digest")}),
        text_member(found, "critical", "identity", "docker-reference"),
        optional if isinstance(optional, Mapping) else {},
        of_image=True,
    )


def parse_envelope(found: Mapping[str, Any]) -> Envelope:
    """Return the envelope in this object. Raises Malformed."""
    listed = found.get("signatures")
    if text_member(found, "payloadType") != IN_TOTO:
        raise Malformed(f"is not of type {IN_TOTO}")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_SIGNATURES:
        raise Malformed(f"has no signature, or more than {_MAX_SIGNATURES}")
    try:
        payload = decode_base64(text_member(found, "payload"))
        signatures = [decode_base64(text_member(one, "sig")) for one in listed]
    except ValueError as error:
        raise Malformed(str(error)) from error
    return Envelope(IN_TOTO, payload, tuple(signatures))


def parse_statement(content: bytes, digest: str) -> Claims:
    """Parse an in-toto statement; its name and annotations are those of the subject that has the digest, if any.

    Raises Malformed.
    """
    found = parse_object(content)
    if text_member(found, "_type") not in _STATEMENTS:
        raise Malformed("is not an in-toto statement")
    subjects, predicate = found.get("subject"), found.get("predicate")
    if not isinstance(subjects, list) or len(subjects) > _MAX_SUBJECTS:
        raise Malformed(f"has no subjects, or more than {_MAX_SUBJECTS}")
    named = {f"sha256:{text_member(one, 'digest', 'sha256')}": one for one in reversed(subjects)}
    annotations = member(named.get(digest, {}), "annotations")
    kind = text_member(found, "predicateType")
    return Claims(
        frozenset(named),
        text_member(named.get(digest, {}), "name"),
        annotations if isinstance(annotations, Mapping) else {},
        kind,
        predicate if isinstance(predicate, Mapping) else {},
        of_image=kind == SIGN_PREDICATE,
    )
