"""What stands before a real registry: a token service, and one that takes no token but the last that Amazon gave."""

import base64
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import orjson
import trustme
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from multidict import CIMultiDict

from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import private_registry
from gateway.model.reference import Digest


async def filled(place: Path, path: str, *tags: str) -> list[Digest]:
    """Push an image under each tag to a registry that nobody guards yet, and keeps them in that place.

    Each is like no other, so that no engine has parts of it.
    """
    async with private_registry(place, free_port()) as registry:
        return [await push(Image(tag, ballast=64), f"{registry.address}/{path}:{tag}") for tag in tags]


@asynccontextmanager
async def served(handler: Callable[[web.Request], Any], address: str = "") -> AsyncIterator[str]:
    """Serve everything by one function, there or somewhere on loopback; yields the address."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, auto_decompress=False)
    await runner.setup()
    host, _, port = (address or f"127.0.0.1:{free_port()}").rpartition(":")
    try:
        await web.TCPSite(runner, host, int(port)).start()
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


# -- https://distribution.github.io/distribution/spec/auth/jwt/


@dataclass
class TokenService:
    """Gives tokens, signed RS256, to those that know the login."""

    login: tuple[str, str]
    place: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        authority = trustme.CA(key_type=trustme.KeyType.RSA)
        own = authority.issue_cert("token-service", key_type=trustme.KeyType.RSA)
        self._key = own.private_key_pem.bytes()
        certificate = x509.load_pem_x509_certificate(own.cert_chain_pems[0].bytes())
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
        self._authority = self.place / "token-authority.pem"
        self._authority.write_bytes(authority.cert_pem.bytes())

    @property
    def auth(self) -> dict[str, Any]:
        """What the registry is to be told."""
        bundle = str(self._authority)
        names = {"realm": f"{self.url}/token", "service": "registry", "issuer": "tests"}
        return {"token": {**names, "rootcertbundle": bundle}}

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers.get("User-Agent", ""))
        if request.headers.get("Authorization") != aiohttp.encode_basic_auth(*self.login):
            return web.json_response({"details": "incorrect username or password"}, status=401)
        now = int(time.time())
        access = []
        for scope in request.query.getall("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": [one for one in actions.split(",") if one == "pull"]})
        claims = {
            "iss": "tests", "sub": self.login[0], "aud": "registry", "jti": str(now),
            "iat": now, "nbf": now - 5, "exp": now + 300, "access": access,
        }  # fmt: skip
        token = jwt.encode(claims, self._key, algorithm="RS256", headers={"x5c": self._chain})
        return web.json_response({"token": token, "expires_in": 300})


# -- Amazon


@dataclass
class Amazon:
    """Answers as Amazon does, by moto; the tokens it gives are ours, so that they differ, and end."""

    moto: str
    life: timedelta = timedelta(hours=12)
    #: the keys that asked for a token
    asked: list[str] = field(default_factory=list)
    #: the tokens that are good
    good: set[str] = field(default_factory=set)
    #: how asking for a token is answered, where it is refused
    refuses: tuple[int, str] | None = None
    _numbers: Any = field(default_factory=itertools.count)

    def expire(self) -> None:
        """Let no token be good that was given so far."""
        self.good.clear()

    async def answer(self, request: web.Request) -> web.Response:
        target = request.headers.get("X-Amz-Target", "")
        signed = request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, self.moto, data=await request.read(), headers=_passed(request)) as answered,
        ):
            status, body = answered.status, await answered.read()
            media_type = answered.content_type
        if target.endswith(".GetAuthorizationToken"):
            self.asked.append(signed)
            if self.refuses is not None:
                status, code = self.refuses
                return web.json_response({"__type": code, "message": "not this one"}, status=status)
            token = f"token-{next(self._numbers)}"
            self.good.add(token)
            given = {
                "authorizationToken": base64.b64encode(f"AWS:{token}".encode()).decode(),
                "expiresAt": (datetime.now(UTC) + self.life).timestamp(),
            }
            public = target.startswith("Spencer")  # which moto does not know
            status, body = 200, orjson.dumps({"authorizationData": given if public else [given]})
        return web.Response(status=status, body=body, content_type=media_type)


@asynccontextmanager
async def amazon() -> AsyncIterator[tuple[Amazon, str]]:
    """Run it; yields it, and where AWS_ENDPOINT_URL is to point."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        one = Amazon(f"http://{host}:{port}/")
        async with served(one.answer) as address:
            yield one, f"http://{address}"
    finally:
        server.stop()


@dataclass
class Gate:
    """Lets through to a registry who shows a token of Amazon's that is good."""

    upstream: str
    amazon: Amazon
    #: called with each request that is let through
    passing: Callable[[web.Request], None] = lambda _request: None
    denied: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        shown = {aiohttp.encode_basic_auth("AWS", token): token for token in self.amazon.good}
        token = shown.get(request.headers.get("Authorization", ""))
        if token is None:
            self.denied.append(request.path)
            asks = {"WWW-Authenticate": 'Basic realm="ECR"', "Docker-Distribution-Api-Version": "registry/2.0"}
            refusal = {"errors": [{"code": "DENIED", "message": "Your authorization token has expired."}]}
            return web.json_response(refusal, status=401, headers=asks)
        self.passed.append(token)
        self.passing(request)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, f"http://{self.upstream}{request.path_qs}", headers=_passed(request)
            ) as answered,
        ):
            body = await answered.read()
            response = web.Response(status=answered.status, body=body)
            for name in ("Content-Type", "Docker-Content-Digest", "Docker-Distribution-Api-Version", "Link", "Etag"):
                if name in answered.headers:
                    response.headers[name] = answered.headers[name]
            if request.method == "HEAD":
                response.headers["Content-Length"] = answered.headers.get("Content-Length", "0")
            return response


def _passed(request: web.Request) -> CIMultiDict[str]:
    headers = CIMultiDict(request.headers)
    for name in ("Host", "Content-Length"):
        headers.popall(name, None)
    return headers


@asynccontextmanager
async def gate(place: Path, amazon: Amazon, address: str = "") -> AsyncIterator[tuple[Gate, str]]:
    """Guard the registry that keeps its images in a place; yields the gate and its address."""
    async with private_registry(place, free_port()) as registry:
        one = Gate(registry.address, amazon)
        async with served(one.answer, address) as listening:
            yield one, listening
