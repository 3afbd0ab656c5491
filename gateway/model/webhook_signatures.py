"""The signatures of outgoing webhooks, by https://www.standardwebhooks.com. It performs no I/O.

    webhook-id: the event's id            the same for each attempt
    webhook-timestamp: seconds            of the attempt
    webhook-signature: v1,BASE64 v1,…     one for each secret that is valid: two while a secret is replaced

Signed is the HMAC-SHA256 of `id.timestamp.body`.
"""

import hashlib
import hmac
import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Iterable

from gateway.model.errors import InvalidInput

PREFIX = "whsec_"
_LEAST, _MOST = 24, 64  # bytes
_NEW = 32  # bytes
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


def new_secret() -> str:
    """Return a new secret."""
    return PREFIX + b64encode(secrets.token_bytes(_NEW)).decode()


def check_secret(secret: str) -> str:
    """Return the secret. Raises InvalidInput without repeating it."""
    _key(secret)
    return secret


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix(PREFIX).encode(), validate=True) if secret.startswith(PREFIX) else b""
    except (Error, ValueError):
        key = b""
    if not _LEAST <= len(key) <= _MOST:
        raise InvalidInput(
            f"a signing secret is {PREFIX} and the base64 of {_LEAST} to {_MOST} bytes; leave it out to have one made",
            field="secret",
        )
    return key


def sign(keys: Iterable[str], message_id: str, seconds: int, body: bytes) -> str:
    """Return the header webhook-signature: one signature for each of these secrets.

    >>> sign(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
    ...      b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    if not _ID.fullmatch(message_id):
        raise ValueError("the id of a message has a full stop, or is none")
    signed = f"{message_id}.{seconds}.".encode() + body
    return " ".join(f"v1,{b64encode(hmac.digest(_key(one), signed, hashlib.sha256)).decode()}" for one in keys)
