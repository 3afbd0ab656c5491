"""How a registry is asked: over TLS that is trusted there, with a login once it wants one.

https://distribution.github.io/distribution/spec/auth/token/
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeVar

import aiohttp
from yarl import URL

from gateway.model.ecr import AwsIdentity
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.reference import DOCKER_HUB, Domain
from gateway.model.registries import Credentials, Login
from gateway.registry import errors, responses
from gateway.registry.challenge import Challenge, parse_challenge
from gateway.registry.errors import Subject
from gateway.registry.responses import INDEXES, LARGEST, MANIFESTS, Answer
from gateway.registry.token_cache import Tokens
from gateway.registry.trusted_hosts import HUB_HOST, Realms

_T = TypeVar("_T")

_ACCEPT = {"Accept": ", ".join((*INDEXES, *MANIFESTS))}
_DEADLINE = aiohttp.ClientTimeout(total=30, sock_connect=10)
_HOPS = 5  # from address to address, until there is an answer
_ONWARD = frozenset({301, 302, 303, 307, 308})
_TRUSTS = 64  # that are kept
_PROVEN = 20.0  # seconds; a registry's token lasts for sixty at least
_MOST_PROVEN = 512


class AuthenticatedTransport:
    """All on loopback are asked without TLS where they have none; those in `insecure` or with any certificate too."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        insecure: frozenset[Domain],
        tokens: Tokens,
        token_hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._session = session
        self._insecure = insecure
        self._realms = Realms(token_hosts, insecure)
        self._tokens = tokens
        #: what met the last challenge, and until when by the loop's clock it is shown unasked
        self._proven: dict[tuple[Subject, Login], tuple[dict[str, str], float]] = {}

    async def credentials(self, login: Login, refused: Credentials | None = None) -> Credentials | None:
        """Return the login as it is good now, another than was refused; raises Failed or Postponed."""
        if isinstance(login.credentials, AwsIdentity):
            return await self._tokens.get(login.credentials, refused)
        return None if login.credentials == refused else login.credentials

    async def ask(
        self,
        method: str,
        path: str,
        subject: Subject,
        login: Login,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask, meeting the challenge where there is one; raises Failed or Postponed where no answer comes."""
        sent = dict(headers or {})

        async def at(base: URL) -> Answer:
            url = (base / path).with_query(query)

            async def show(proof: Mapping[str, str]) -> Answer:
                return await self._request(method, url, {**sent, **proof}, subject, login)

            proof = self._recall(subject, login)
            answer = await show(proof)
            if answer.denies and proof:
                answer = await show({})  # what it took a moment ago it takes no more
            if answer.status != responses.CHALLENGED:
                return answer
            challenge = parse_challenge(answer.headers.get("WWW-Authenticate", ""))
            return await self._meet(challenge, subject, login, show)

        return await self._reach(subject, login, at)

    # -- challenges

    def _recall(self, subject: Subject, login: Login) -> dict[str, str]:
        proof, until = self._proven.pop((subject, login), ({}, 0.0))
        now = asyncio.get_running_loop().time()
        if until <= now:
            return {}
        self._proven[subject, login] = proof, until
        return proof

    async def _meet(
        self,
        challenge: Challenge,
        subject: Subject,
        login: Login,
        show: Callable[[Mapping[str, str]], Awaitable[Answer]],
    ) -> Answer:
        """Answer the challenge with the login; where that is refused, with a newer one if there is one by now."""
        refused, answer = None, None
        while (credentials := await self.credentials(login, refused)) is not None or answer is None:
            proof = await self._prove(challenge, subject, login, credentials)
            answer = proof if isinstance(proof, Answer) else await show(proof)
            if not answer.denies and not isinstance(proof, Answer):
                self._remember(subject, login, proof)
            if not answer.denies or credentials is None or refused is not None:
                break
            refused = credentials
        return answer

    def _remember(self, subject: Subject, login: Login, proof: dict[str, str]) -> None:
        if len(self._proven) >= _MOST_PROVEN:
            del self._proven[next(iter(self._proven))]
        self._proven[subject, login] = proof, asyncio.get_running_loop().time() + _PROVEN

    async def _prove(
        self, challenge: Challenge, subject: Subject, login: Login, credentials: Credentials | None
    ) -> dict[str, str] | Answer:
        """Return the header that meets the challenge, or the answer of the token service that refuses it."""
        basic: dict[str, str] = {}
        if credentials is not None:
            encoded = aiohttp.encode_basic_auth(credentials.username, credentials.password)
            basic = {"Authorization": encoded}
        if challenge.scheme != "bearer":
            return basic
        scope, service = challenge.parameters.get("scope", subject.scope), challenge.parameters.get("service", "")
        query = {name: value for name, value in (("scope", scope), ("service", service)) if value}
        realm = _address(challenge.parameters.get("realm", ""))
        if realm is None:
            raise Failed(Code.DENIED, f"{subject.domain} asks for a login at no address")
        answer = await self._ask_realm(realm.update_query(query), basic, subject, login)
        if answer.status != responses.FOUND:
            return Answer(_as_the_registrys(answer.status), answer.headers, b"")
        return {"Authorization": f"Bearer {responses.token(Domain(realm.authority), answer.body)}"}

    async def _ask_realm(self, realm: URL, basic: Mapping[str, str], subject: Subject, login: Login) -> Answer:
        """Ask for a token there, and where it sends us on to, each address judged before it is asked."""
        plain = self._may_be_plain(subject.domain)
        for _ in range(_HOPS):
            await self._realms.refuse_realm(realm, subject.domain, plain=plain, login=bool(basic))
            async with self._session.get(
                realm,
                headers=basic,
                timeout=_DEADLINE,
                ssl=self._trust(Domain(realm.authority), login),
                allow_redirects=False,
            ) as response:
                further = _onward(realm, response)
                if further is None:
                    return Answer(response.status, response.headers, await _read(response))
            realm = further
        raise _circle(subject, realm)

    # -- connections

    async def _reach(self, subject: Subject, login: Login, call: Callable[[URL], Awaitable[_T]]) -> _T:
        """Call with each address the registry may have until one answers; raises Failed or Postponed."""
        *before, last = self._bases(subject.domain, login)
        try:
            for base in before:
                try:
                    return await call(base)
                except aiohttp.ClientConnectorCertificateError:
                    raise
                except aiohttp.ClientSSLError:
                    continue
            return await call(last)
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:  # a name that cannot be resolved
            raise errors.unreached(subject.domain, subject.text, error) from error

    async def _request(
        self, method: str, url: URL, headers: Mapping[str, str], subject: Subject, login: Login
    ) -> Answer:
        sent, origin = {**_ACCEPT, **headers}, url.origin()
        for _ in range(_HOPS):
            if url.origin() != origin:
                await self._realms.refuse_other(url, subject.domain)
                sent.pop("Authorization", None)
            async with self._session.request(
                method,
                url,
                headers=sent,
                timeout=_DEADLINE,
                ssl=self._trust(subject.domain, login),
                allow_redirects=False,
            ) as response:
                further = _onward(url, response)
                if further is None:
                    return Answer(response.status, response.headers, await _read(response) if method == "GET" else b"")
            url = further
        raise _circle(subject, url)

    def _bases(self, domain: Domain, login: Login) -> list[URL]:
        host = HUB_HOST if domain == DOCKER_HUB else domain
        # Where a certificate was given to be trusted, nothing is to be asked without one.
        plain = self._may_be_plain(domain) and login.ca_certificates is None
        return [URL(f"{scheme}://{host}") for scheme in (("https", "http") if plain else ("https",))]

    def _trust(self, domain: Domain, login: Login) -> ssl.SSLContext | bool:
        """Return whom we trust there, besides those that the system, or the file SSL_CERT_FILE names, does."""
        if login.ca_certificates is not None:
            return _trusting(login.ca_certificates)
        return domain not in self._insecure

    def _may_be_plain(self, domain: Domain) -> bool:
        host = URL(f"//{domain}").host or ""
        if domain in self._insecure or host == "localhost":
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False


@lru_cache(maxsize=_TRUSTS)
def _trusting(authority: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=authority)
    return context


def _onward(url: URL, response: aiohttp.ClientResponse) -> URL | None:
    """Return where an answer sends us on to, None where it is one itself."""
    if response.status not in _ONWARD or "Location" not in response.headers:
        return None
    return _address(response.headers["Location"], url)


def _circle(subject: Subject, url: URL) -> Postponed:
    return Postponed(
        Code.REGISTRY_UNREACHABLE, f"{subject.domain} sends us on and on for {subject.text}, last to {url.host}"
    )


def _address(text: str, base: URL | None = None) -> URL | None:
    """Return an address as a registry wrote it, without a login in it; None where it is none that can be asked."""
    try:
        url = URL(text) if base is None else base.join(URL(text))
        (url.host_subcomponent or "").encode("idna")  # as whoever resolves it will
    except ValueError:
        return None
    return url.with_user(None) if url.scheme in {"http", "https"} and url.host else None


def _as_the_registrys(status: int) -> int:
    """Return what a token service's refusal means for what is asked: some say 400 or 404 to a wrong login."""
    return status if status == 429 or status >= 500 else responses.CHALLENGED  # noqa: PLR2004


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, of one that is too large the beginning."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > LARGEST:
            break
    return bytes(body[:LARGEST])
