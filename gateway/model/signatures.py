"""Verification of signatures and tokens: the only module that compares secrets, always in constant time.

Each `verify_` function raises Unauthenticated unless the sender knows the secret. The message never says what differs.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

from gateway.model.errors import Unauthenticated

#: prefix of a base64 secret in the Standard Webhooks format
STANDARD_PREFIX = "whsec_"

_REPLAY_WINDOW = timedelta(minutes=5)
_MAX_TIMESTAMP_LENGTH = 11  # digits, which datetime can still hold
_MAX_SIGNATURES = 8


def constant_time_equal(one: bytes, other: bytes) -> bool:
    """Compare two hashes in constant time."""
    return hmac.compare_digest(one, other)


def verify_token(sent: str | None, secret: str) -> None:
    """Verify a header that holds the secret itself."""
    _verify(_bytes(sent), secret.encode(), secret)


def verify_bearer(authorization: str | None, secret: str) -> None:
    """Verify `Authorization: Bearer SECRET`."""
    _verify(_credentials(authorization, "bearer"), secret.encode(), secret)


def verify_basic(authorization: str | None, secret: str) -> None:
    """Verify `Authorization: Basic …` whose password is the secret; the user name does not matter."""
    try:
        login = base64.b64decode(_credentials(authorization, "basic"), validate=True)
    except binascii.Error as error:
        raise Unauthenticated("the Authorization header is not valid Basic authentication") from error
    _verify(login.partition(b":")[2], secret.encode(), secret)


def verify_credentials(headers: Mapping[str, str], secret: str, *names: str) -> None:
    """Verify the Authorization header: the bare secret, Bearer or Basic. Without it, the first header of `names`."""
    authorization = headers.get("authorization", "")
    scheme = authorization.partition(" ")[0].lower()
    if not authorization:
        verify_token(next((headers[name] for name in names if name in headers), None), secret)
        return
    try:
        # The secret may be a complete header value: "Bearer …".
        verify_token(authorization, secret)
    except Unauthenticated:
        if scheme not in _SCHEMES:
            raise
        _SCHEMES[scheme](authorization, secret)


_SCHEMES = {"basic": verify_basic, "bearer": verify_bearer}


def verify_hmac(
    sent: str | None,
    secret: str,
    body: bytes,
    *,
    algorithm: str = "sha256",
    prefix: str = "",
    encoding: Literal["hex", "base64"] = "hex",
) -> None:
    """Verify the HMAC of the raw body, in lower-case hexadecimal or base64, after `prefix`."""
    signed = hmac.new(secret.encode(), body, algorithm)
    expected = signed.hexdigest().encode() if encoding == "hex" else base64.b64encode(signed.digest())
    _verify(_bytes(sent), prefix.encode() + expected, secret)


def verify_standard_webhook(headers: Mapping[str, str], secret: str, body: bytes, *, at: datetime) -> None:
    """Verify a signature as https://www.standardwebhooks.com specifies it, made within five minutes of `at`.

    The key is the secret itself, or the decoded base64 after `whsec_`.
    """
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > _MAX_TIMESTAMP_LENGTH:
        raise Unauthenticated("the webhook-timestamp header is not a time in seconds")
    if abs(datetime.fromtimestamp(int(timestamp), UTC) - at) > _REPLAY_WINDOW:
        raise Unauthenticated("the signature is more than five minutes old, or from the future: compare the clocks")
    signed = _bytes(headers.get("webhook-id")) + b"." + timestamp.encode() + b"." + body
    expected = [base64.b64encode(hmac.new(key, signed, sha256).digest()) for key in _keys(secret)]
    # During a key rotation, the sender signs with both keys.
    sent = _bytes(headers.get("webhook-signature")).split(b" ")[:_MAX_SIGNATURES]
    tried = [_equal(one, b"v1," + key) for one in sent for key in expected]
    if not secret or not any(tried):
        raise Unauthenticated("the webhook-signature header does not match the secret")


def _keys(secret: str) -> list[bytes]:
    keys = [secret.encode()]
    if secret.startswith(STANDARD_PREFIX):
        try:
            keys.append(base64.b64decode(secret.removeprefix(STANDARD_PREFIX), validate=True))
        except ValueError:
            return keys
    return [key for key in keys if key]


def _credentials(authorization: str | None, scheme: str) -> bytes:
    named, _, credentials = (authorization or "").partition(" ")
    if named.lower() != scheme:
        raise Unauthenticated(f"an Authorization header of scheme {scheme.title()} is needed")
    return _bytes(credentials.strip(" "))


def _bytes(sent: str | None) -> bytes:
    # compare_digest rejects a str beyond ASCII, and servers pass undecodable header bytes on as surrogates.
    return (sent or "").encode("utf-8", "surrogateescape")


def _verify(sent: bytes, expected: bytes, secret: str) -> None:
    if not secret:
        raise Unauthenticated("this endpoint has no secret: set one")
    if not sent:
        raise Unauthenticated("a signature or token is needed: none was sent")
    if not _equal(sent, expected):
        raise Unauthenticated("signature or token does not match")


def _equal(sent: bytes, expected: bytes) -> bool:
    # Hashed first, so that not even the length of the secret leaks.
    return hmac.compare_digest(sha256(sent).digest(), sha256(expected).digest())
