"""Parse the challenge of a registry's 401 response. It performs no I/O."""

import re
from dataclasses import dataclass

_PARAMETER = re.compile(r'(?<![a-zA-Z_])([a-zA-Z_]+)=(?:"([^"]*)"|([^\s",]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge. `scheme` is in lower case: basic or bearer."""

    scheme: str
    parameters: dict[str, str]


def parse_challenge(header: str) -> Challenge:
    """Parse a WWW-Authenticate header: https://www.rfc-editor.org/rfc/rfc9110#name-www-authenticate.

    >>> parse_challenge('Bearer realm="https://auth.example.com/token",service="registry"').parameters["service"]
    'registry'
    """
    scheme, _, rest = header.strip().partition(" ")
    parameters = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest[:4096])}
    return Challenge(scheme.lower(), parameters)
