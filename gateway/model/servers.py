"""Remote servers: the addresses of their engines, and the credentials for them. It performs no I/O."""

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
    """The address of an engine. `scheme` is unix, tcp or ssh; `host` a path or a name; `user` is for ssh only."""

    scheme: str
    host: str
    port: int = 0
    user: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. Raises InvalidInput."""
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as error:
            # The message does not repeat it: it may contain a password.
            raise InvalidInput(f"that is not an engine's address, for example {_EXAMPLES}", field="host") from error
        if parts.password is not None:
            raise InvalidInput("an engine's address cannot contain a password: give an SSH key", field="host")
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return cls("unix", parts.path)
        if (
            parts.scheme not in {"tcp", "http", "ssh"}
            or not _HOSTNAME.fullmatch(parts.hostname or "")
            or _has_more(parts)
            or (parts.username is not None and (parts.scheme != "ssh" or not _USER.fullmatch(parts.username)))
        ):
            raise InvalidInput(f"{text!r} is not an engine's address, for example {_EXAMPLES}", field="host")
        scheme = "ssh" if parts.scheme == "ssh" else "tcp"
        default = _SSH_PORT if scheme == "ssh" else _PLAIN_PORT
        return cls(scheme, parts.hostname or "", port or default, parts.username)

    @property
    def published_host(self) -> str:
        """The host name under which published ports are reachable."""
        return "127.0.0.1" if self.scheme == "unix" else self.host

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _has_more(parts: SplitResult) -> bool:
    return bool(parts.path.strip("/") or parts.query or parts.fragment)


# Credentials by scheme, with their names in the API.
_CREDENTIALS: Mapping[str, Mapping[str, str]] = {
    "unix": {},
    "tcp": {"tls_ca": "tlsCa", "tls_cert": "tlsCert", "tls_key": "tlsKey"},
    "ssh": {"ssh_key": "sshKey", "known_hosts": "knownHosts"},
}
_API_FIELDS = {name: sent for fields in _CREDENTIALS.values() for name, sent in fields.items()}
_PRIVATE_KEYS = ("tls_key", "ssh_key")
_REQUIREMENTS = {
    "tcp": "TLS needs the CA, a certificate for the gateway, and the key of that certificate",
    "ssh": "ssh:// needs a private key, and the public key of the host as printed by ssh-keyscan",
}


@dataclass(frozen=True, slots=True)
class Access:
    """An address and the credentials for it, in PEM and OpenSSH formats, left out of `repr`."""

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
        """Raises InvalidInput naming a field that is missing or that the scheme does not use."""
        scheme = self.address.scheme
        given = self.secrets()
        wanted = _CREDENTIALS[scheme]
        if useless := [_API_FIELDS[name] for name in given if name not in wanted]:
            raise InvalidInput(f"{useless[0]} cannot be used with {scheme}://", field=useless[0])
        missing = [sent for name, sent in wanted.items() if name not in given]
        if missing and (given or scheme == "ssh"):
            raise InvalidInput(f"{missing[0]} is missing: {_REQUIREMENTS[scheme]}", field=missing[0])

    def _reject_key_reuse(self, address: Address, changes: Mapping[str, str | None]) -> None:
        """Raises InvalidInput if a private key would be used at another address than it was given for."""
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
        """Return the credentials to encrypt."""
        return {name: value for name in _API_FIELDS if (value := getattr(self, name))}

    def with_changes(self, changes: Mapping[str, str | None]) -> "Access":
        """Return it with changes applied, without credentials of another scheme. Raises InvalidInput."""
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
    """A registered server. `engine_id` is that of the last engine that answered; `error` says why none does."""

    server_id: str
    name: str
    description: str
    access: Access
    engine_id: str | None
    error: str | None
    created_at: datetime
    changed_at: datetime
    #: why `access` has no credentials, if no master key decrypts them
    unreadable: str | None = None

    def access_with_changes(self, changes: Mapping[str, str | None]) -> Access:
        """Return its access with changes applied. Raises Unavailable if its credentials cannot be decrypted."""
        if self.unreadable is not None and not changes.keys() - {"host"}:
            raise Unavailable(self.unreadable)
        return self.access.with_changes(changes)
