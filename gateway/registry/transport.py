"""Send requests to registries: over trusted TLS, and with the login once the registry asks for it.

https://distribution.github.io/distribution/spec/auth/token/
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address

import aiohttp
from yarl import URL

from gateway.model.ecr import AwsIdentity
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.reference import DOCKER_HUB, Domain
from gateway.model.registries import Credentials, Login
from gateway.registry import errors, responses
from gateway.registry.challenge import Challenge, parse_challenge
from gateway.registry.errors import Subject
from gateway.registry.responses import INDEXES, MANIFESTS, MAX_MANIFEST, Answer
from gateway.registry.token_cache import TokenCache
from gateway.registry.trusted_hosts import HUB_HOST, TrustedHosts, authority_of

_ACCEPT = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_TLS_CONTEXTS = 64
_AUTHORIZATION_LIFETIME = 20.0  # seconds; a registry's token is valid for at least sixty
_MAX_AUTHORIZATIONS = 512
_WITHOUT_TLS_LIFETIME = 600.0  # seconds
_NO_HTTP = 400  # what servers answer to a request without TLS on a port for TLS
# UnicodeError: a name that cannot be resolved
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)


class AuthenticatedTransport:
    """Sends requests, follows redirects, and answers challenges.

    Registries on loopback, and those in `insecure`, may be without TLS; the latter may also have any certificate.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        insecure: frozenset[Domain],
        tokens: TokenCache,
        token_hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._session = session
        self._insecure = insecure
        self._trusted_hosts = TrustedHosts(token_hosts, insecure)
        self._tokens = tokens
        #: registries that were found to have no TLS, and until when by the loop's clock they are not asked for it again
        self._without_tls: dict[Domain, float] = {}
        #: the header that answered the last challenge, and until when by the loop's clock it is sent without one
        self._authorizations: dict[tuple[Subject, Login], tuple[dict[str, str], float]] = {}

    async def credentials(self, login: Login, denied: Credentials | None = None) -> Credentials | None:
        """Return the login's valid credentials, but not those that the registry has denied; None where it has none.

        Raises Failed or Postponed.
        """
        if isinstance(login.credentials, AwsIdentity):
            return await self._tokens.get(login.credentials, denied)
        return None if login.credentials == denied else login.credentials

    async def request(
        self,
        method: str,
        path: str,
        subject: Subject,
        login: Login,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the response, after answering a challenge; raises Failed or Postponed where there is no response."""
        sent = dict(headers or {})

        async def request_at(base: URL) -> Answer:
            url = (base / path).with_query(query)

            async def send(proof: Mapping[str, str]) -> Answer:
                return await self._send(method, url, {**sent, **proof}, subject, login)

            proof = self._cached_authorization(subject, login)
            answer = await send(proof)
            if answer.denies and proof:
                answer = await send({})  # the cached header is no longer accepted
            if answer.status != responses.CHALLENGED:
                return answer
            challenge = parse_challenge(answer.headers.get("WWW-Authenticate", ""))
            return await self._answer_challenge(challenge, subject, login, send)

        return await self._try_addresses(subject, login, request_at)

    # -- challenges

    def _cached_authorization(self, subject: Subject, login: Login) -> dict[str, str]:
        proof, until = self._authorizations.pop((subject, login), ({}, 0.0))
        now = asyncio.get_running_loop().time()
        if until <= now:
            return {}
        self._authorizations[subject, login] = proof, until
        return proof

    async def _answer_challenge(
        self,
        challenge: Challenge,
        subject: Subject,
        login: Login,
        send: Callable[[Mapping[str, str]], Awaitable[Answer]],
    ) -> Answer:
        """Answer the challenge with the credentials; where they are denied, with newer ones if there are any."""
        denied, answer = None, None
        while (credentials := await self.credentials(login, denied)) is not None or answer is None:
            proof = await self._authorize(challenge, subject, login, credentials)
            answer = proof if isinstance(proof, Answer) else await send(proof)
            if not answer.denies and not isinstance(proof, Answer):
                self._cache_authorization(subject, login, proof)
            if not answer.denies or credentials is None or denied is not None:
                break
            denied = credentials
        return answer

    def _cache_authorization(self, subject: Subject, login: Login, proof: dict[str, str]) -> None:
        if len(self._authorizations) >= _MAX_AUTHORIZATIONS:
            del self._authorizations[next(iter(self._authorizations))]
        self._authorizations[subject, login] = proof, asyncio.get_running_loop().time() + _AUTHORIZATION_LIFETIME

    async def _authorize(
        self, challenge: Challenge, subject: Subject, login: Login, credentials: Credentials | None
    ) -> dict[str, str] | Answer:
        """Return the header that answers the challenge, or the token service's response if that denies the login."""
        basic: dict[str, str] = {}
        if credentials is not None:
            encoded = aiohttp.encode_basic_auth(credentials.username, credentials.password)
            basic = {"Authorization": encoded}
        if challenge.scheme != "bearer":
            return basic
        scope, service = challenge.parameters.get("scope", subject.scope), challenge.parameters.get("service", "")
        query = {name: value for name, value in (("scope", scope), ("service", service)) if value}
        realm = _parse_url(challenge.parameters.get("realm", ""))
        if realm is None:
            raise Failed(Code.DENIED, f"{subject.domain} asks for a login, but names no valid address for it")
        answer = await self._request_token(realm.update_query(query), basic, subject, login)
        if answer.status != responses.FOUND:
            return Answer(_registry_status(answer.status), answer.headers, b"")
        return {"Authorization": f"Bearer {responses.token(authority_of(realm), answer.body)}"}

    async def _request_token(self, realm: URL, basic: Mapping[str, str], subject: Subject, login: Login) -> Answer:
        """Request a token, and follow redirects; each address is checked before it is requested."""
        plain = self._allows_http(subject.domain)
        for _ in range(_MAX_REDIRECTS):
            try:
                await self._trusted_hosts.check_realm(realm, subject.domain, plain=plain, login=bool(basic))
                async with self._session.get(
                    realm,
                    headers=basic,
                    timeout=_TIMEOUT,
                    ssl=self._tls(authority_of(realm), login),
                    allow_redirects=False,
                ) as response:
                    target = _redirect_target(realm, response)
                    if target is None:
                        return Answer(response.status, response.headers, await _read(response))
            except _UNREACHABLE as error:
                raise errors.token_service_error(authority_of(realm), subject, error) from error
            realm = target
        raise _too_many_redirects(subject, realm)

    # -- connections

    async def _try_addresses(self, subject: Subject, login: Login, call: Callable[[URL], Awaitable[Answer]]) -> Answer:
        """Call with each base URL of the registry until one answers; raises Failed or Postponed.

        One that was found to have no TLS is at first asked without, for as long as it answers that.
        """
        *with_tls, last = self._base_urls(subject.domain, login)
        clock = asyncio.get_running_loop().time
        if with_tls and self._without_tls.get(subject.domain, 0.0) > clock():
            with suppress(aiohttp.ClientError):
                if (answer := await call(last)).status != _NO_HTTP:
                    return answer
            self._without_tls.pop(subject.domain, None)
        try:
            for base in with_tls:
                try:
                    return await call(base)
                except aiohttp.ClientConnectorCertificateError:
                    raise
                except aiohttp.ClientSSLError:
                    self._without_tls[subject.domain] = clock() + _WITHOUT_TLS_LIFETIME
            return await call(last)
        except _UNREACHABLE as error:
            raise errors.connection_error(subject.domain, subject.text, error) from error

    async def _send(self, method: str, url: URL, headers: Mapping[str, str], subject: Subject, login: Login) -> Answer:
        sent, origin = {**_ACCEPT, **headers}, url.origin()
        for _ in range(_MAX_REDIRECTS):
            redirected = url.origin() != origin
            try:
                if redirected:
                    sent.pop("Authorization", None)
                    await self._trusted_hosts.check_redirect(url, subject.domain)
                async with self._session.request(
                    method,
                    url,
                    headers=sent,
                    timeout=_TIMEOUT,
                    ssl=self._tls(subject.domain, login),
                    allow_redirects=False,
                ) as response:
                    target = _redirect_target(url, response)
                    if target is None:
                        body = await _read(response) if method == "GET" else b""
                        return Answer(response.status, response.headers, body)
            except _UNREACHABLE as error:
                if not redirected:
                    raise
                raise errors.redirect_error(authority_of(url), subject, error) from error
            url = target
        raise _too_many_redirects(subject, url)

    def _base_urls(self, domain: Domain, login: Login) -> list[URL]:
        host = HUB_HOST if domain == DOCKER_HUB else domain
        # A login with its own certificate authority is never sent without TLS.
        plain = self._allows_http(domain) and login.ca_certificates is None
        return [URL(f"{scheme}://{host}") for scheme in (("https", "http") if plain else ("https",))]

    def _tls(self, domain: Domain, login: Login) -> ssl.SSLContext | bool:
        """Return the TLS setting, with the login's certificate authority added to those of the system."""
        if login.ca_certificates is not None:
            return _tls_context(login.ca_certificates)
        return domain not in self._insecure

    def _allows_http(self, domain: Domain) -> bool:
        host = URL(f"//{domain}").host or ""
        if domain in self._insecure or host == "localhost":
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False


@lru_cache(maxsize=_MAX_TLS_CONTEXTS)
def _tls_context(authority: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=authority)
    return context


def _redirect_target(url: URL, response: aiohttp.ClientResponse) -> URL | None:
    """Return the target of a redirect, None for any other response."""
    if response.status not in _REDIRECTS or "Location" not in response.headers:
        return None
    return _parse_url(response.headers["Location"], url)


def _too_many_redirects(subject: Subject, url: URL) -> Postponed:
    return Postponed(
        Code.REGISTRY_UNREACHABLE, f"{subject.domain} redirects too often for {subject.text}, last to {url.host}"
    )


def _parse_url(text: str, base: URL | None = None) -> URL | None:
    """Return a URL that a registry sent, without a login in it; None where it is not a valid http or https URL."""
    try:
        url = URL(text) if base is None else base.join(URL(text))
        (url.host_subcomponent or "").encode("idna")  # as resolving it will do; raises ValueError
    except ValueError:
        return None
    return url.with_user(None) if url.scheme in {"http", "https"} and url.host else None


def _registry_status(status: int) -> int:
    """Return the status for a token service's: some answer 400 or 404 to a wrong login, which means 401."""
    return status if status == 429 or status >= 500 else responses.CHALLENGED  # noqa: PLR2004


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, up to the limit."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_MANIFEST:
            break
    return bytes(body[:MAX_MANIFEST])
