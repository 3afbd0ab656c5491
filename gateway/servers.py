"""Hosts whose engines the gateway reaches, and what it needs to be let in. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self
from urllib.parse import SplitResult, urlsplit

from gateway.errors import InvalidInput

_FORMS = "unix:///var/run/docker.sock, tcp://10.0.0.5:2376 or ssh://deploy@10.0.0.5"
_PLAIN_PORT, _SSH_PORT = 2375, 22
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9a-f:.]+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens: `scheme` is unix, tcp or ssh, `host` a path or a name, `user` for ssh alone."""

    scheme: str
    host: str
    port: int = 0
    user: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one; raises InvalidInput."""
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"{text!r} is not an engine's address, as in {_FORMS}", field="host") from error
        if parts.password is not None:
            raise InvalidInput("a password does not belong in an engine's address: give an SSH key", field="host")
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return cls("unix", parts.path)
        if (
            parts.scheme not in {"tcp", "http", "ssh"}
            or not _HOSTNAME.fullmatch(parts.hostname or "")
            or _has_more(parts)
            or (parts.username is not None and (parts.scheme != "ssh" or not _USER.fullmatch(parts.username)))
        ):
            raise InvalidInput(f"{text!r} is not an engine's address, as in {_FORMS}", field="host")
        scheme = "ssh" if parts.scheme == "ssh" else "tcp"
        default = _SSH_PORT if scheme == "ssh" else _PLAIN_PORT
        return cls(scheme, parts.hostname or "", port or default, parts.username)

    @property
    def published(self) -> str:
        """The name under which what its containers publish is reached."""
        return "127.0.0.1" if self.scheme == "unix" else self.host

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _has_more(parts: SplitResult) -> bool:
    return bool(parts.path.strip("/") or parts.query or parts.fragment)


@dataclass(frozen=True, slots=True)
class Access:
    """An address and what lets us in there, in PEM and OpenSSH's forms. Kept out of `repr`."""

    host: str
    tls_ca: str | None = field(default=None, repr=False)
    tls_cert: str | None = field(default=None, repr=False)
    tls_key: str | None = field(default=None, repr=False)
    ssh_key: str | None = field(default=None, repr=False)
    known_hosts: str | None = field(default=None, repr=False)

    @property
    def address(self) -> Address:
        return Address.parse(self.host)

    @property
    def tls(self) -> bool:
        return self.tls_ca is not None

    def check(self) -> None:
        """Raises InvalidInput, naming the field, where something is missing or does not belong."""
        scheme = self.address.scheme
        tls = {"tlsCa": self.tls_ca, "tlsCert": self.tls_cert, "tlsKey": self.tls_key}
        ssh = {"sshKey": self.ssh_key, "knownHosts": self.known_hosts}
        if scheme == "tcp" and any(tls.values()):
            _complete(tls, "TLS takes the CA, a certificate for us, and its key")
        if scheme == "ssh":
            _complete(ssh, "ssh:// takes a private key, and the host's own in known_hosts form (ssh-keyscan HOST)")
        for meant_for, fields in (("tcp", tls), ("ssh", ssh)):
            if scheme != meant_for and (given := [name for name, value in fields.items() if value]):
                raise InvalidInput(f"{given[0]} is of no use with {scheme}://", field=given[0])

    def secrets(self) -> dict[str, str]:
        """Return what is to be sealed."""
        names = ("tls_ca", "tls_cert", "tls_key", "ssh_key", "known_hosts")
        return {name: value for name in names if (value := getattr(self, name))}


def _complete(fields: Mapping[str, str | None], why: str) -> None:
    if missing := [name for name, value in fields.items() if not value]:
        raise InvalidInput(f"{missing[0]} is missing: {why}", field=missing[0])


@dataclass(frozen=True, slots=True)
class Server:
    """A host as it is kept. `engine_id` is the daemon's that last answered there, `error` why it does not."""

    server_id: str
    name: str
    description: str
    access: Access
    engine_id: str | None
    error: str | None
    created_at: datetime
    changed_at: datetime
