"""A token service as Docker Hub has one: https://distribution.github.io/distribution/spec/auth/token/."""

import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jwt
import trustme
from aiohttp import BasicAuth, web
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

SERVICE = "registry.docker.io"
ISSUER = "auth.docker.io"
_VALID = 300  # seconds


@dataclass(frozen=True, slots=True)
class Tokens:
    """Grants pulls of what is public to anybody, everything to who has a password, and 401 to a wrong one."""

    passwords: Mapping[str, str]
    public: Sequence[str]
    key: bytes
    #: the certificate of the key, which the registry trusts
    certificate: str

    @classmethod
    def issued_by(cls, place: Path, passwords: Mapping[str, str], public: Sequence[str]) -> Self:
        """Make a key; the certificate that a registry needs to believe it is `tokens.pem` in the directory."""
        authority = trustme.CA(key_type=trustme.KeyType.RSA)
        made = authority.issue_cert(ISSUER, key_type=trustme.KeyType.RSA)
        authority.cert_pem.write_to_path(place / "tokens.pem")
        leaf = load_pem_x509_certificate(made.cert_chain_pems[0].bytes())
        return cls(passwords, public, made.private_key_pem.bytes(), b64encode(leaf.public_bytes(Encoding.DER)).decode())

    async def answer(self, request: web.Request) -> web.Response:
        user = ""
        if given := request.headers.get("Authorization"):
            login = BasicAuth.decode(given, encoding="utf-8")
            if self.passwords.get(login.login) != login.password:
                return web.json_response({"details": "incorrect username or password"}, status=401)
            user = login.login
        access = [self._granted(scope, user) for scope in request.query.getall("scope", [])]
        return web.json_response({"token": self._token(user, access), "expires_in": _VALID})

    def _granted(self, scope: str, user: str) -> dict[str, Any]:
        kind, _, rest = scope.partition(":")
        name, _, wanted = rest.rpartition(":")
        public = {"pull"} if name.startswith(tuple(self.public)) else set()
        granted = wanted.split(",") if user else [action for action in wanted.split(",") if action in public]
        return {"type": kind, "name": name, "actions": granted}

    def _token(self, user: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        until = {"nbf": now - 10, "iat": now, "exp": now + _VALID}
        claims = {"iss": ISSUER, "sub": user, "aud": SERVICE, "jti": str(now), "access": access, **until}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"x5c": [self.certificate]})
