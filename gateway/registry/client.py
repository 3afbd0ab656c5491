"""Asks registries: what a tag names now, what it is for, which others there are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp

from gateway.model.errors import Code, Failed, InvalidInput, RolloutError
from gateway.model.reference import Digest, Domain, Reference, parse_digest
from gateway.model.registries import Credentials, CredentialsProvider, Login
from gateway.registry import ecr_tokens, errors, responses
from gateway.registry.errors import Subject, refuse
from gateway.registry.responses import FOUND, INDEXES, MISSING, Answer
from gateway.registry.token_cache import Tokens
from gateway.registry.transport import AuthenticatedTransport

_PAGE = 1000  # tags
_PAGE_TYPE = "text/html"  # of what is no registry's
_PAGES = 5  # that are read to find the nearest tags


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a name means now. `platforms` is empty where the manifest names one image, not several."""

    digest: Digest
    platforms: frozenset[str] = frozenset()
    #: the type of what is no image, where that is known by now
    artifact: str | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """What the manifest of one image says it is for, and the type of what is no image; each None where not told."""

    platform: str | None = None
    artifact: str | None = None


class RegistryClient:
    """What is asked of registries; made by `connect`."""

    def __init__(self, transport: AuthenticatedTransport) -> None:
        self._transport = transport

    # -- who asks

    async def credentials(self, login: Login) -> Credentials | None:
        """Return the login as it is good now; raises Failed or Postponed."""
        return await self._transport.credentials(login)

    def credentials_provider(self, login: Login) -> CredentialsProvider:
        return lambda refused: self._transport.credentials(login, refused)

    async def log_in(self, domain: Domain, login: Login) -> None:
        """Log in, as `docker login` does; raises Failed or Postponed."""
        subject = Subject(domain, "the login")
        answer = await self._transport.ask("GET", "v2/", subject, login)
        if answer.status == MISSING or (answer.status == FOUND and answer.media_type == _PAGE_TYPE):
            raise Failed(Code.NOT_FOUND, f"{domain} is no registry: it has nothing of one at /v2/")
        refuse(answer.status, answer.headers, subject, login)

    # -- what is there

    async def resolve(self, reference: Reference, login: Login) -> Resolved:
        """Return what the name means now; raises Failed or Postponed."""
        subject, path = Subject.of(reference), _manifest(reference)
        answer = await self._transport.ask("HEAD", path, subject, login)
        refuse(answer.status, answer.headers, subject, login)
        if answer.media_type not in INDEXES:
            with suppress(InvalidInput):
                return Resolved(parse_digest(answer.headers.get("Docker-Content-Digest", "")))
        answer = await self._transport.ask("GET", path, subject, login)
        refuse(answer.status, answer.headers, subject, login)
        found, digest = responses.manifest(answer), responses.digest(answer)
        if found is None or digest is None:
            raise errors.no_manifest(subject, answer)
        several = "manifests" in found
        platforms = responses.platforms(answer.body) if several else frozenset()
        return Resolved(digest, platforms, responses.artifact(found) if several else None)

    async def has(self, reference: Reference, login: Login) -> bool:
        """Tell whether the registry has this now; raises Failed or Postponed."""
        subject = Subject.of(reference)
        answer = await self._transport.ask("HEAD", _manifest(reference), subject, login)
        if answer.status == MISSING:
            return False
        refuse(answer.status, answer.headers, subject, login)
        return True

    async def describe(self, reference: Reference, login: Login) -> Described:
        """Return what the manifest of one image is for, and of, as far as that can be told."""
        subject, repository, told = Subject.of(reference), reference.repository, Described()
        with suppress(RolloutError):
            answer = await self._transport.ask("GET", _manifest(reference), subject, login)
            found = responses.manifest(answer) if answer.status == FOUND else None
            if found is None:
                return told
            told = Described(artifact=responses.artifact(found))
            config = responses.config_digest(answer.body)
            if config is not None and told.artifact is None:
                blob = await self._transport.ask("GET", f"v2/{repository.path}/blobs/{config}", subject, login)
                told = Described(responses.platform(blob.body) if blob.status == FOUND else None)
        return told

    async def has_zstd(self, reference: Reference, login: Login, platform: str) -> bool:
        """Tell whether layers of the image are compressed with zstd; False where that cannot be told."""
        with suppress(RolloutError):
            answer = await self._transport.ask("GET", _manifest(reference), Subject.of(reference), login)
            found = responses.manifest(answer) or {}
            if (own := responses.child(found, platform)) is not None:
                return await self.has_zstd(reference.with_digest(own), login, "")
            return responses.has_zstd(found)
        return False

    async def missing(self, reference: Reference, login: Login) -> Failed | None:
        """Return what to say of an image that is not there, with the nearest tags; None where that cannot be told."""
        tags: list[str] = []
        with suppress(RolloutError):
            for _ in range(_PAGES):
                answer = await self.list_tags(reference, login, last=tags[-1] if tags else "")
                if answer.status == MISSING:
                    return errors.missing(reference, None)
                if answer.status != FOUND:
                    return None
                page = responses.tags(answer.body)
                if page is None:
                    return None
                tags += page
                if not page or 'rel="next"' not in answer.headers.get("Link", ""):
                    break
            return errors.missing(reference, tags)
        return None

    async def look(self, reference: Reference, login: Login, *, etag: str | None) -> Answer:
        """Ask with HEAD what a tag means now, if that is no more what `etag` stood for; raises Failed or Postponed."""
        headers = {"If-None-Match": etag} if etag else {}
        return await self._transport.ask("HEAD", _manifest(reference), Subject.of(reference), login, headers=headers)

    async def list_tags(self, reference: Reference, login: Login, *, last: str = "") -> Answer:
        """Ask for a page of tags after `last`; raises Failed or Postponed."""
        query = {"n": str(_PAGE)} | ({"last": last} if last else {})
        path = f"v2/{reference.repository.path}/tags/list"
        return await self._transport.ask("GET", path, Subject.of(reference), login, query=query)


def _manifest(reference: Reference) -> str:
    return f"v2/{reference.repository.path}/manifests/{reference.digest or reference.tag}"


@asynccontextmanager
async def connect(
    insecure: frozenset[Domain] = frozenset(),
    tokens: Tokens | None = None,
    *,
    token_hosts: frozenset[str] = frozenset(),
) -> AsyncIterator[RegistryClient]:
    """Hold a client; those in `insecure` are asked without TLS, or with any certificate.

    `token_hosts` may be sent logins for whichever registry names them.
    """
    connector = aiohttp.TCPConnector(limit_per_host=16)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as session:
        yield RegistryClient(AuthenticatedTransport(session, insecure, tokens or Tokens(ecr_tokens.fetch), token_hosts))
