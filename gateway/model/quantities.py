"""Parses amounts of memory, into bytes, and of CPUs, into billionths. It performs no I/O."""

import re
from decimal import Decimal

from gateway.model.errors import InvalidInput

# The Docker Engine refuses less: https://docs.docker.com/engine/containers/resource_constraints/
MIN_MEMORY = 6 * 1024**2

_NANO = 10**9
_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}
_AMOUNT = r"(?:\d{1,18}(?:\.\d{0,9})?|\.\d{1,9})"
_MEMORY = re.compile(rf"({_AMOUNT})\s*(?:([kmgtp])i?)?b?", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(_AMOUNT, re.ASCII)
_MAX_INT64 = 2**63 - 1  # the Docker Engine counts bytes, and billionths of a processor, in 64 bits


def parse_memory(text: str, *, least: int = MIN_MEMORY) -> int:
    """Return bytes. `2048MB`, `2g`, `2GiB` and `2147483648` are the same; raises InvalidInput.

    >>> parse_memory("2048MB") == parse_memory("2g") == parse_memory("2147483648")
    True
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is not an amount of memory, for example 512MB or 2g")
    amount = int(Decimal(match[1]) * _UNITS[(match[2] or "").lower()])
    if amount < least:
        raise InvalidInput(f"{text!r} is less than {_format_bytes(least)}, the least the Docker Engine accepts")
    if amount > _MAX_INT64:
        raise InvalidInput(f"{text!r} is more than the Docker Engine can count")
    return amount


def _format_bytes(amount: int) -> str:
    return f"{amount // 1024**2}MB" if amount >= 1024**2 else f"{amount} byte"


def parse_cpus(text: str) -> int:
    """Return billionths of a CPU. `0.5` and `500000000` are the same. Raises InvalidInput.

    A number below 1000 means CPUs, one from 1000000 means nanoCPUs; numbers between are rejected as ambiguous.
    """
    if not _NUMBER.fullmatch(text.strip()):
        raise InvalidInput(f"{text!r} is not a number of CPUs, for example 2 or 0.5")
    amount = Decimal(text.strip())
    if amount > _MAX_INT64:
        raise InvalidInput(f"{text!r} is more than the Docker Engine can count")
    if amount >= 1_000_000:  # noqa: PLR2004 - the docstring says it
        return int(amount)
    if amount >= 1000:  # noqa: PLR2004
        raise InvalidInput(f"{text!r} is neither a number of CPUs nor of nanoCPUs")
    nano = int(amount * _NANO)
    if nano < _NANO // 100:
        raise InvalidInput(f"{text!r} is less than 0.01 CPUs, the least the Docker Engine accepts")
    return nano
