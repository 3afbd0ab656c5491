"""Proofs of who sends: the only place that compares secrets, always in constant time.

Each function raises Unauthenticated unless what was sent proves the secret. It never says what differs.
"""

import base64
import binascii
import hmac
from hashlib import sha256

from gateway.errors import Unauthenticated


def prove_token(sent: str | None, secret: str) -> None:
    """The secret itself, as it is."""
    _compare(_bytes(sent), secret.encode(), secret)


def prove_bearer(authorization: str | None, secret: str) -> None:
    """`Authorization: Bearer SECRET`."""
    _compare(_credentials(authorization, "bearer"), secret.encode(), secret)


def prove_basic(authorization: str | None, secret: str) -> None:
    """`Authorization: Basic …` whose password is the secret; the user's name is free."""
    try:
        login = base64.b64decode(_credentials(authorization, "basic"), validate=True)
    except binascii.Error as error:
        raise Unauthenticated("the Authorization header is not a Basic login") from error
    _compare(login.partition(b":")[2], secret.encode(), secret)


def prove_hmac(sent: str | None, secret: str, body: bytes, *, algorithm: str = "sha256", prefix: str = "") -> None:
    """The body's HMAC in lower-case hexadecimal digits after `prefix`. `body` is raw, as it was signed."""
    expected = prefix + hmac.new(secret.encode(), body, algorithm).hexdigest()
    _compare(_bytes(sent), expected.encode(), secret)


def _credentials(authorization: str | None, scheme: str) -> bytes:
    named, _, credentials = (authorization or "").partition(" ")
    if named.lower() != scheme:
        raise Unauthenticated(f"an Authorization header of scheme {scheme.title()} is needed")
    return _bytes(credentials.strip(" "))


def _bytes(sent: str | None) -> bytes:
    # compare_digest refuses a str beyond ASCII, and servers hand undecodable header bytes on as surrogates.
    return (sent or "").encode("utf-8", "surrogateescape")


def _compare(sent: bytes, expected: bytes, secret: str) -> None:
    if not secret:
        raise Unauthenticated("this endpoint has no secret to compare with: set one")
    if not sent:
        raise Unauthenticated("a proof of the sender is needed: none was sent")
    # Hashed first, so that not even the length of the secret shows.
    if not hmac.compare_digest(sha256(sent).digest(), sha256(expected).digest()):
        raise Unauthenticated("the proof of the sender is wrong")
