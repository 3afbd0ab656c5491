"""An OpenID Connect issuer made for the tests: it signs in at once whoever it is told to, and can be made to lie."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from yarl import URL

CLIENT, SECRET = "pushdeploy", "client secret"


def _number(value: int) -> str:
    return _encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class Issuer:
    """`claims` replace those of the next ID token; `header` replaces its header."""

    url: str = ""
    subject: str = "person-1"
    groups: list[str] | None = field(default_factory=lambda: ["platform"])
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    #: among its keys, first
    strange_keys: list[dict[str, Any]] = field(default_factory=list)
    signed_by: rsa.RSAPrivateKey | None = None
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def token(self, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": "1", **self.header}
        parts = [_encode(json.dumps(one).encode()) for one in (header, claims)]
        signature = (self.signed_by or self.key).sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, "" if header["alg"] == "none" else _encode(signature)])

    async def configuration(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "userinfo_endpoint": f"{self.url}/userinfo",
                "jwks_uri": f"{self.url}/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
            }
        )

    def authorize(self, address: str) -> str:
        """Return where the browser is sent back to."""
        asked = dict(URL(address).query)
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return str(URL(asked["redirect_uri"]).with_query(code=code, state=asked["state"]))

    async def redeem(self, request: web.Request) -> web.Response:
        fields = await request.post()
        asked = self.codes.pop(str(fields["code"]), None)
        proof = _encode(hashlib.sha256(str(fields["code_verifier"]).encode()).digest())
        if asked is None or proof != asked["code_challenge"] or fields["client_secret"] != SECRET:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": self.subject,
            "nonce": asked["nonce"],
            "iat": now,
            "exp": now + 300,
            "email": "anna@example.com",
            "email_verified": True,
            **({} if self.groups is None else {"groups": self.groups}),
            **self.claims,
        }
        return web.json_response({"access_token": "a", "token_type": "Bearer", "id_token": self.token(claims)})

    async def keys(self, request: web.Request) -> web.StreamResponse:
        """Respond in two parts."""
        numbers = self.key.public_key().public_numbers()
        one = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": _number(numbers.n), "e": _number(numbers.e)}
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        text = json.dumps({"keys": [*self.strange_keys, one]}).encode()
        for part in (text[:50], text[50:]):
            await response.write(part)
            await asyncio.sleep(0.01)
        return response

    async def user(self, _request: web.Request) -> web.Response:
        return web.json_response({"sub": self.subject, **self.userinfo})


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """Run an issuer on loopback."""
    issuer, application = Issuer(), web.Application()
    application.add_routes(
        [
            web.get("/.well-known/openid-configuration", issuer.configuration),
            web.post("/token", issuer.redeem),
            web.get("/keys", issuer.keys),
            web.get("/userinfo", issuer.user),
        ]
    )
    async with TestServer(application) as server:
        issuer.url = f"http://127.0.0.1:{server.port}"
        yield issuer
