"""Ids of rows that are inserted often."""

import os
import time


def new_id() -> str:
    """Return a UUID of version 7: ids that are made one after another stay together in an index.

    See https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7.
    """
    moment = f"{time.time_ns() // 1_000_000:012x}"
    random = os.urandom(10).hex()
    variant = "89ab"[int(random[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"
