"""Hosts whose engines the gateway reaches, and what it needs to be let in. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self
from urllib.parse import SplitResult, urlsplit

from gateway.model.errors import InvalidInput, Unavailable

_EXAMPLES = "unix:///var/run/docker.sock, tcp://10.0.0.5:2376 or ssh://deploy@10.0.0.5"
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
            # Not repeated: a password may stand in it.
            raise InvalidInput(f"that is not an engine's address, as in {_EXAMPLES}", field="host") from error
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
            raise InvalidInput(f"{text!r} is not an engine's address, as in {_EXAMPLES}", field="host")
        scheme = "ssh" if parts.scheme == "ssh" else "tcp"
        default = _SSH_PORT if scheme == "ssh" else _PLAIN_PORT
        return cls(scheme, parts.hostname or "", port or default, parts.username)

    @property
    def published_host(self) -> str:
        """The name under which what its containers publish is reached."""
        return "127.0.0.1" if self.scheme == "unix" else self.host

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _has_more(parts: SplitResult) -> bool:
    return bool(parts.path.strip("/") or parts.query or parts.fragment)


# What lets us in, by the scheme it is for, under the names it is sent by.
_CREDENTIALS: Mapping[str, Mapping[str, str]] = {
    "unix": {},
    "tcp": {"tls_ca": "tlsCa", "tls_cert": "tlsCert", "tls_key": "tlsKey"},
    "ssh": {"ssh_key": "sshKey", "known_hosts": "knownHosts"},
}
_API_FIELDS = {name: sent for fields in _CREDENTIALS.values() for name, sent in fields.items()}
_PRIVATE_KEYS = ("tls_key", "ssh_key")
_REQUIREMENTS = {
    "tcp": "TLS takes the CA, a certificate for the gateway, and that certificate's key",
    "ssh": "ssh:// takes a private key, and the host's public one as ssh-keyscan prints it",
}


@dataclass(frozen=True, slots=True)
class Access:
    """An address and what lets us in there, in PEM and OpenSSH's forms, kept out of `repr`."""

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
        """Raises InvalidInput, naming the field, where something is missing or of no use."""
        scheme = self.address.scheme
        given = self.secrets()
        wanted = _CREDENTIALS[scheme]
        if useless := [_API_FIELDS[name] for name in given if name not in wanted]:
            raise InvalidInput(f"{useless[0]} is of no use with {scheme}://", field=useless[0])
        missing = [sent for name, sent in wanted.items() if name not in given]
        if missing and (given or scheme == "ssh"):
            raise InvalidInput(f"{missing[0]} is missing: {_REQUIREMENTS[scheme]}", field=missing[0])

    def _reject_key_reuse(self, address: Address, changes: Mapping[str, str | None]) -> None:
        """Raises InvalidInput where a private key would go on to be used at an address it was not given for."""
        before = self.address
        if (address.scheme, address.host, address.port) == (before.scheme, before.host, before.port):
            return
        for name in _PRIVATE_KEYS:
            if getattr(self, name) and name not in changes and name in _CREDENTIALS[address.scheme]:
                raise InvalidInput(
                    f"the key was given for {self.host} and is not used elsewhere: send {_API_FIELDS[name]} with host",
                    field=_API_FIELDS[name],
                )

    def secrets(self) -> dict[str, str]:
        """Return what is to be sealed."""
        return {name: value for name in _API_FIELDS if (value := getattr(self, name))}

    def with_changes(self, changes: Mapping[str, str | None]) -> "Access":
        """Return it with these fields as sent; what let us in by another scheme is dropped. Raises InvalidInput."""
        host = changes.get("host") or self.host
        wanted = _CREDENTIALS[Address.parse(host).scheme]
        kept = {name: value for name, value in self.secrets().items() if name in wanted}
        secrets = {**kept, **{name: value for name, value in changes.items() if name != "host"}}
        self._reject_key_reuse(Address.parse(host), changes)
        access = Access(host, **secrets)
        access.check()
        return access


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
    #: why its access is without what lets us in, where no key opens that
    unreadable: str | None = None

    def access_with_changes(self, changes: Mapping[str, str | None]) -> Access:
        """Return its access with these fields as sent; raises Unavailable where what lets us in is neither."""
        if self.unreadable is not None and not changes.keys() - {"host"}:
            raise Unavailable(self.unreadable)
        return self.access.with_changes(changes)
