"""Resolves a tag to a digest at its registry, with whatever login it asks for."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import aiohttp
import orjson
from yarl import URL

from gateway.errors import Code, Failed, InvalidInput, Postponed
from gateway.reference import DOCKER_HUB, Digest, Domain, Reference, parse_digest
from gateway.registries import Credentials
from gateway.registry.challenge import Challenge, parse_challenge

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT = {"Accept": ", ".join((*INDEXES, *_MANIFESTS))}
_DEADLINE = aiohttp.ClientTimeout(total=30, sock_connect=10)
_LARGEST_MANIFEST = 4 * 1024**2  # bytes, as https://github.com/opencontainers/distribution-spec names it
_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means now. `platforms` is empty where the manifest names one image, not several."""

    digest: Digest
    platforms: frozenset[str] = frozenset()


class RegistryClient:
    """Asks registries. Those in `insecure`, and all on loopback, are asked without TLS where they have none."""

    def __init__(self, session: aiohttp.ClientSession, insecure: frozenset[Domain] = frozenset()) -> None:
        self._session = session
        self._insecure = insecure

    async def resolve(self, reference: Reference, credentials: Credentials | None) -> Resolved:
        """Return what the name means now; raises Failed or Postponed."""
        wanted = reference.digest or reference.tag
        path = f"v2/{reference.repository.path}/manifests/{wanted}"
        try:
            for base in self._bases(reference.repository.domain):
                try:
                    return await self._resolve(base / path, reference, credentials)
                except aiohttp.ClientSSLError:
                    if base.scheme == "https" and self._may_be_plain(reference.repository.domain):
                        continue
                    raise
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise Postponed(
                Code.REGISTRY_UNREACHABLE,
                f"{reference.repository.domain} does not answer for {reference}: {str(error) or type(error).__name__}",
            ) from error
        raise Postponed(Code.REGISTRY_UNREACHABLE, f"{reference.repository.domain} does not answer")

    async def _resolve(self, url: URL, reference: Reference, credentials: Credentials | None) -> Resolved:
        authorization: dict[str, str] = {}
        status, headers, _ = await self._ask("HEAD", url, authorization)
        if status == 401:  # noqa: PLR2004 - the challenge of RFC 9110
            challenge = parse_challenge(headers.get("WWW-Authenticate", ""))
            authorization = await self._answer(challenge, reference, credentials)
            status, headers, _ = await self._ask("HEAD", url, authorization)
        _refuse(status, headers, reference, anonymous=credentials is None)
        digest = headers.get("Docker-Content-Digest", "")
        media_type = headers.get("Content-Type", "").partition(";")[0].strip()
        platforms: frozenset[str] = frozenset()
        if media_type in INDEXES:
            status, headers, body = await self._ask("GET", url, authorization)
            _refuse(status, headers, reference, anonymous=credentials is None)
            digest = headers.get("Docker-Content-Digest", digest)
            platforms = _platforms(body)
        try:
            return Resolved(parse_digest(digest), platforms)
        except InvalidInput as error:
            raise Failed(Code.NOT_FOUND, f"{reference.repository.domain} names no digest for {reference}") from error

    async def _ask(
        self, method: str, url: URL, authorization: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        async with self._session.request(
            method, url, headers=_ACCEPT | dict(authorization), timeout=_DEADLINE
        ) as response:
            body = await response.content.read(_LARGEST_MANIFEST) if method == "GET" else b""
            return response.status, response.headers, body

    async def _answer(
        self, challenge: Challenge, reference: Reference, credentials: Credentials | None
    ) -> dict[str, str]:
        """Return the header that meets the challenge; https://distribution.github.io/distribution/spec/auth/token/."""
        basic: dict[str, str] = {}
        if credentials is not None:
            encoded = aiohttp.encode_basic_auth(credentials.username, credentials.password)
            basic = {"Authorization": encoded}
        if challenge.scheme != "bearer":
            return basic
        scope = challenge.parameters.get("scope", f"repository:{reference.repository.path}:pull")
        query = {"scope": scope} | (
            {"service": challenge.parameters["service"]} if "service" in challenge.parameters else {}
        )
        realm = URL(challenge.parameters.get("realm", ""))
        if realm.scheme not in {"http", "https"}:
            raise Failed(Code.DENIED, f"{reference.repository.domain} asks for a login at no address")
        async with self._session.get(realm.update_query(query), headers=basic, timeout=_DEADLINE) as response:
            _refuse(response.status, response.headers, reference, anonymous=credentials is None)
            token = _token(await response.content.read(_LARGEST_MANIFEST))
        return {"Authorization": f"Bearer {token}"}

    def _bases(self, domain: Domain) -> list[URL]:
        host = _HUB_HOST if domain == DOCKER_HUB else domain
        schemes = ["https", "http"] if self._may_be_plain(domain) else ["https"]
        return [URL(f"{scheme}://{host}") for scheme in schemes]

    def _may_be_plain(self, domain: Domain) -> bool:
        host = URL(f"//{domain}").host or ""
        if domain in self._insecure or host == "localhost":
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False


@asynccontextmanager
async def connect(insecure: frozenset[Domain] = frozenset()) -> AsyncIterator[RegistryClient]:
    """Hold a client; it trusts what the system trusts, and the file that SSL_CERT_FILE names."""
    connector = aiohttp.TCPConnector(limit_per_host=16)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as session:
        yield RegistryClient(session, insecure)


def _refuse(status: int, headers: Mapping[str, str], reference: Reference, *, anonymous: bool) -> None:
    domain = reference.repository.domain
    match status:
        case 200:
            return
        case 401 | 403:
            login = "without a login" if anonymous else "with this login"
            raise Failed(Code.DENIED, f"{domain} denies {reference} {login}")
        case 404:
            raise Failed(Code.NOT_FOUND, f"{domain} has no {reference}")
        case 429:
            raise Postponed(
                Code.RATE_LIMITED,
                f"{domain} limits our requests for {reference}",
                retry_after=_seconds(headers.get("Retry-After", "")),
            )
        case _:
            raise Postponed(Code.REGISTRY_UNREACHABLE, f"{domain} answers {status} for {reference}")


def _seconds(retry_after: str) -> float | None:
    return float(retry_after) if retry_after.isdigit() else None


def _platforms(body: bytes) -> frozenset[str]:
    """Return the platforms of an index, without attestations, which call themselves unknown/unknown."""
    try:
        manifests: list[dict[str, Any]] = orjson.loads(body)["manifests"]
        named = [manifest.get("platform") or {} for manifest in manifests]
        found = {f"{platform.get('os')}/{platform.get('architecture')}" for platform in named}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return frozenset()
    return frozenset(found - {"unknown/unknown", "None/None"})


def _token(body: bytes) -> str:
    try:
        answer = orjson.loads(body)
        return str(answer.get("token") or answer["access_token"])
    except (orjson.JSONDecodeError, KeyError, AttributeError) as error:
        raise Postponed(Code.REGISTRY_UNREACHABLE, "the registry's login answers no token") from error
