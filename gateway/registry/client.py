"""Resolves a tag to a digest at its registry, with whatever login it asks for."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

import aiohttp
import orjson
from yarl import URL

from gateway.errors import Code, Failed, InvalidInput, Postponed
from gateway.reference import DOCKER_HUB, Digest, Domain, Reference, parse_digest
from gateway.registries import Credentials
from gateway.registry.challenge import Challenge, parse_challenge

_T = TypeVar("_T")

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
_PAGE = 1000  # tags
_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means now. `platforms` is empty where the manifest names one image, not several."""

    digest: Digest
    platforms: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answers, whatever it is."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class RegistryClient:
    """Asks registries. Those in `insecure`, and all on loopback, are asked without TLS where they have none."""

    def __init__(self, session: aiohttp.ClientSession, insecure: frozenset[Domain] = frozenset()) -> None:
        self._session = session
        self._insecure = insecure

    async def resolve(self, reference: Reference, credentials: Credentials | None) -> Resolved:
        """Return what the name means now; raises Failed or Postponed."""
        path = f"v2/{reference.repository.path}/manifests/{reference.digest or reference.tag}"
        return await self._reach(reference, lambda base: self._resolve(base / path, reference, credentials))

    async def look(self, reference: Reference, credentials: Credentials | None, *, etag: str | None) -> Answer:
        """Ask with HEAD what a tag means now, if that is no more what `etag` stood for; raises Failed or Postponed."""
        path = f"v2/{reference.repository.path}/manifests/{reference.tag}"
        headers = {"If-None-Match": etag} if etag else {}
        answer, _ = await self._reach(
            reference, lambda base: self._ask_known("HEAD", base / path, reference, credentials, headers)
        )
        return answer

    async def list_tags(self, reference: Reference, credentials: Credentials | None, *, last: str = "") -> Answer:
        """Ask for a page of tags after `last`; raises Failed or Postponed."""
        path = f"v2/{reference.repository.path}/tags/list"
        query = {"n": str(_PAGE)} | ({"last": last} if last else {})
        answer, _ = await self._reach(
            reference, lambda base: self._ask_known("GET", (base / path).with_query(query), reference, credentials, {})
        )
        return answer

    async def _reach(self, reference: Reference, call: Callable[[URL], Awaitable[_T]]) -> _T:
        """Call with each address the registry may have until one answers; raises Postponed where none does."""
        domain = reference.repository.domain
        try:
            for base in self._bases(domain):
                try:
                    return await call(base)
                except aiohttp.ClientSSLError:
                    if base.scheme == "https" and self._may_be_plain(domain):
                        continue
                    raise
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise Postponed(
                Code.REGISTRY_UNREACHABLE,
                f"{domain} does not answer for {reference}: {str(error) or type(error).__name__}",
            ) from error
        raise Postponed(Code.REGISTRY_UNREACHABLE, f"{domain} does not answer")

    async def _ask_known(
        self,
        method: str,
        url: URL,
        reference: Reference,
        credentials: Credentials | None,
        headers: Mapping[str, str],
    ) -> tuple[Answer, dict[str, str]]:
        """Ask, meeting the challenge where there is one; return the header that met it too."""
        authorization: dict[str, str] = {}
        answer = await self._ask(method, url, headers)
        if answer.status == 401:  # noqa: PLR2004 - the challenge of RFC 9110
            challenge = parse_challenge(answer.headers.get("WWW-Authenticate", ""))
            authorization = await self._answer(challenge, reference, credentials)
            answer = await self._ask(method, url, {**headers, **authorization})
        return answer, authorization

    async def _resolve(self, url: URL, reference: Reference, credentials: Credentials | None) -> Resolved:
        answer, authorization = await self._ask_known("HEAD", url, reference, credentials, {})
        _refuse(answer.status, answer.headers, reference, anonymous=credentials is None)
        digest = answer.headers.get("Docker-Content-Digest", "")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        platforms: frozenset[str] = frozenset()
        if media_type in INDEXES:
            answer = await self._ask("GET", url, authorization)
            _refuse(answer.status, answer.headers, reference, anonymous=credentials is None)
            digest = answer.headers.get("Docker-Content-Digest", digest)
            platforms = _platforms(answer.body)
        try:
            return Resolved(parse_digest(digest), platforms)
        except InvalidInput as error:
            raise Failed(Code.NOT_FOUND, f"{reference.repository.domain} names no digest for {reference}") from error

    async def _ask(self, method: str, url: URL, headers: Mapping[str, str]) -> Answer:
        async with self._session.request(method, url, headers=_ACCEPT | dict(headers), timeout=_DEADLINE) as response:
            return Answer(response.status, response.headers, await _read(response) if method == "GET" else b"")

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
            token = _token(await _read(response))
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


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, of one that is too large the beginning."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_MANIFEST:
            break
    return bytes(body[:_LARGEST_MANIFEST])


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
