"""The encodings of keys and signatures: base64 and PEM."""

import base64
import binascii
import re

#: one block of PEM
PEM = re.compile(r"-----BEGIN [A-Z ]+-----[A-Za-z0-9+/=\s]+-----END [A-Z ]+-----")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 in its one canonical form. Raises ValueError."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("is not canonical base64")
    return decoded
