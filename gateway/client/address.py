"""The address of a gateway: a URL with http or https, perhaps with a path where a proxy serves it."""

import http.client
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from gateway.model.errors import InvalidInput

_PAGES = "dashboard"  # the part of a path below which the pages of a gateway are


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL. Two are equal if they lead to the same place; `path` has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidInput."""
        parts = urlsplit(text.strip())
        try:
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"{text!r} has no valid port") from error
        scheme = parts.scheme.lower()
        printable = text.isascii() and text.strip().isprintable() and " " not in text.strip()
        if scheme not in {"http", "https"} or not parts.hostname or not printable:
            example = cls._with_scheme(text.strip()) or "https://gateway.example.com"
            raise InvalidInput(f"{text!r} is not the URL of a gateway, for example {example}")
        if parts.username is not None or parts.query or parts.fragment:
            raise InvalidInput("the URL of a gateway has no user, query or fragment; the key is given apart")
        return cls(scheme, parts.hostname, port or (443 if scheme == "https" else 80), parts.path.rstrip("/"))

    @classmethod
    def _with_scheme(cls, text: str) -> Self | None:
        """Return what a text without a scheme most likely means: http where no network is between, else https."""
        if not text or "://" in text:
            return None
        try:
            plain = cls.parse(f"http://{text}")
            return cls.parse(f"https://{text}") if plain.is_readable_by_others else plain
        except InvalidInput:
            return None

    @classmethod
    def candidates(cls, text: str) -> "list[Self]":
        """Return the addresses that a URL may mean: the URL itself, then those whose dashboard has a page of this URL.

        Raises InvalidInput.
        """
        parts = urlsplit(text.strip())
        words = parts.path.split("/")
        of_pages = [number for number, word in enumerate(words) if word == _PAGES]
        if not of_pages:
            return [cls.parse(text)]
        paths = [parts.path, *("/".join(words[:number]) for number in reversed(of_pages))]
        return [cls.parse(urlunsplit(parts._replace(path=path, query="", fragment=""))) for path in paths]

    @property
    def root(self) -> "Address":
        """The address without its path."""
        return replace(self, path="")

    @property
    def authority(self) -> str:
        """The host, and the port where it is not the scheme's usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return host if usual else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def is_readable_by_others(self) -> bool:
        """Whether the key would travel over a network without encryption."""
        if self.scheme == "https" or self.host == "localhost":
            return False
        import ipaddress

        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """Return a connection that is not open yet. The certificate is verified by the system's authorities."""
        if self.scheme == "http":
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        import ssl

        context = ssl.create_default_context()
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=context)
