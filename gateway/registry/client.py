"""The registry client: resolve tags, describe manifests, list tags, and log in."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp

from gateway.model.errors import Code, Failed, InvalidInput, RolloutError
from gateway.model.reference import Digest, Domain, Reference, parse_digest
from gateway.model.registries import Credentials, CredentialsProvider, Login
from gateway.registry import ecr_tokens, errors, responses, signatures
from gateway.registry.attached import Attached, Wanted
from gateway.registry.errors import Subject, raise_for_status
from gateway.registry.responses import FOUND, INDEXES, MISSING, Answer
from gateway.registry.token_cache import TokenCache
from gateway.registry.transport import AuthenticatedTransport
from gateway.single_flight import SingleFlight

_PAGE_SIZE = 1000  # tags
_HTML = "text/html"  # a page of another server and not of a registry
_DESCRIBED_KEPT = 256  # images
_MAX_PAGES = 5  # of tags that are read to suggest the nearest ones


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference names now. `platforms` is empty where the manifest is that of one image."""

    digest: Digest
    platforms: frozenset[str] = frozenset()
    #: the media type where the manifest is known to be no image
    artifact: str | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """The platform of one image, and the media type of what is no image; None where not known."""

    platform: str | None = None
    artifact: str | None = None


class RegistryClient:
    """Sends requests to registries. `connect` makes one.

    Methods raise Failed for what will not heal, as wrong credentials or an unknown image, and Postponed for the rest.
    """

    def __init__(self, transport: AuthenticatedTransport) -> None:
        self._transport = transport
        self._resolving = SingleFlight[Resolved]()
        self._describing = SingleFlight[Described]()
        self._attaching = SingleFlight[Attached]()
        #: what the manifests of images say, which never changes
        self._described: dict[tuple[Reference, Login], Described] = {}

    # -- credentials

    async def credentials(self, login: Login) -> Credentials | None:
        """Return the credentials that are valid now, None for anonymous access; raises Failed or Postponed."""
        return await self._transport.credentials(login)

    def credentials_provider(self, login: Login) -> CredentialsProvider:
        """Return a function that provides the credentials of this login."""
        return lambda refused: self._transport.credentials(login, refused)

    async def log_in(self, domain: Domain, login: Login) -> None:
        """Log in, as `docker login` does; raises Failed or Postponed."""
        subject = Subject(domain, "the login")
        answer = await self._transport.request("GET", "v2/", subject, login)
        if answer.status == MISSING or (answer.status == FOUND and answer.media_type == _HTML):
            raise Failed(Code.NOT_FOUND, f"{domain} is not a registry: it does not serve the registry API at /v2/")
        raise_for_status(answer.status, answer.headers, subject, login)

    # -- images

    async def resolve(self, reference: Reference, login: Login) -> Resolved:
        """Return what the reference names now; raises Failed or Postponed.

        All who ask with the same login meanwhile get the answer to one request, which is sent after they asked.
        """
        return await self._resolving.join_next((reference, login), lambda: self._resolve(reference, login))

    async def _resolve(self, reference: Reference, login: Login) -> Resolved:
        subject, path = Subject.of(reference), _manifest_path(reference)
        answer = await self._transport.request("HEAD", path, subject, login)
        raise_for_status(answer.status, answer.headers, subject, login)
        if answer.media_type not in INDEXES:
            with suppress(InvalidInput):
                return Resolved(parse_digest(answer.headers.get("Docker-Content-Digest", "")))
        answer = await self._transport.request("GET", path, subject, login)
        raise_for_status(answer.status, answer.headers, subject, login)
        manifest, digest = responses.manifest(answer), responses.digest(answer)
        if manifest is None or digest is None:
            raise errors.not_a_manifest(subject, answer)
        several = "manifests" in manifest
        platforms = responses.platforms(answer.body) if several else frozenset()
        return Resolved(digest, platforms, responses.artifact(manifest) if several else None)

    async def has(self, reference: Reference, login: Login) -> bool:
        """Tell whether the registry has the image now; raises Failed or Postponed."""
        subject = Subject.of(reference)
        answer = await self._transport.request("HEAD", _manifest_path(reference), subject, login)
        if answer.status == MISSING:
            return False
        raise_for_status(answer.status, answer.headers, subject, login)
        return True

    async def describe(self, reference: Reference, login: Login) -> Described:
        """Return what the manifest of one image says, as far as the registry answers. Raises nothing.

        What the registry has answered about a digest is kept for the login that it was answered to.
        """
        if reference.digest is None:
            return await self._describe(reference, login)
        key = (Reference(reference.repository, None, reference.digest), login)
        if (known := self._described.get(key)) is not None:
            return known
        described = await self._describing.join(key, lambda: self._describe(reference, login))
        if described != Described():
            if len(self._described) >= _DESCRIBED_KEPT:
                self._described.clear()
            self._described[key] = described
        return described

    async def _describe(self, reference: Reference, login: Login) -> Described:
        subject, repository, described = Subject.of(reference), reference.repository, Described()
        with suppress(RolloutError):
            answer = await self._transport.request("GET", _manifest_path(reference), subject, login)
            found = responses.manifest(answer) if answer.status == FOUND else None
            if found is None:
                return described
            described = Described(artifact=responses.artifact(found))
            config = responses.config_digest(answer.body)
            if config is not None and described.artifact is None:
                blob = await self._transport.request("GET", f"v2/{repository.path}/blobs/{config}", subject, login)
                described = Described(responses.platform(blob.body) if blob.status == FOUND else None)
        return described

    async def labels(self, reference: Reference, login: Login, names: Collection[str]) -> Mapping[str, str]:
        """Return those of these labels that the image has, or its manifest as annotations; raises Failed or Postponed.

        Of an image for several platforms, those of the first one.
        """
        subject, found = Subject.of(reference), dict[str, str]()
        answer = await self._transport.request("GET", _manifest_path(reference), subject, login)
        raise_for_status(answer.status, answer.headers, subject, login)
        manifest = responses.manifest(answer) or {}
        found = responses.texts(manifest.get("annotations"), names)
        if (own := responses.first_child(manifest)) is not None:
            return {**await self.labels(reference.with_digest(own), login, names), **found}
        config = None if "manifests" in manifest else responses.config_digest(answer.body)
        if config is not None:
            blob = await self._transport.request(
                "GET", f"v2/{reference.repository.path}/blobs/{config}", subject, login
            )
            raise_for_status(blob.status, blob.headers, subject, login)
            found = {**found, **responses.labels(blob.body, names)}
        return found

    async def has_zstd(self, reference: Reference, login: Login, platform: str) -> bool:
        """Tell whether layers of the image are compressed with zstd; False where the registry does not answer."""
        with suppress(RolloutError):
            answer = await self._transport.request("GET", _manifest_path(reference), Subject.of(reference), login)
            found = responses.manifest(answer) or {}
            if (own := responses.child(found, platform)) is not None:
                return await self.has_zstd(reference.with_digest(own), login, "")
            return responses.has_zstd(found)
        return False

    async def attached(self, reference: Reference, login: Login, wanted: Wanted) -> Attached:
        """Return the signatures or attestations of the image, named by its digest. Raises nothing.

        All who ask with the same login meanwhile get the answer to the same requests, which are sent after they asked.
        """
        image = Reference(reference.repository, None, reference.digest)
        return await self._attaching.join_next(
            (image, login, wanted), lambda: signatures.fetch(self._transport, image, login, wanted)
        )

    async def index(self, reference: Reference, login: Login) -> bytes | None:
        """Return the index with the reference's digest, None where that is one image; raises Failed or Postponed."""
        return await signatures.fetch_index(self._transport, reference, login)

    async def explain_missing(self, reference: Reference, login: Login) -> Failed | None:
        """Return the error for an image that does not exist, with the nearest tags; None if tags cannot be listed."""
        tags: list[str] = []
        with suppress(RolloutError):
            for _ in range(_MAX_PAGES):
                answer = await self.list_tags(reference, login, last=tags[-1] if tags else "")
                if answer.status == MISSING:
                    return errors.missing_image(reference, None)
                if answer.status != FOUND:
                    return None
                page = responses.tags(answer.body)
                if page is None:
                    return None
                tags += page
                if not page or 'rel="next"' not in answer.headers.get("Link", ""):
                    break
            return errors.missing_image(reference, tags)
        return None

    async def head_manifest(self, reference: Reference, login: Login, *, etag: str | None) -> Answer:
        """Request the manifest's headers, or 304 where it still has this `etag`; raises Failed or Postponed."""
        headers = {"If-None-Match": etag} if etag else {}
        return await self._transport.request(
            "HEAD", _manifest_path(reference), Subject.of(reference), login, headers=headers
        )

    async def list_tags(self, reference: Reference, login: Login, *, last: str = "") -> Answer:
        """Request the page of tags after `last`; raises Failed or Postponed."""
        query = {"n": str(_PAGE_SIZE)} | ({"last": last} if last else {})
        path = f"v2/{reference.repository.path}/tags/list"
        return await self._transport.request("GET", path, Subject.of(reference), login, query=query)


def _manifest_path(reference: Reference) -> str:
    return f"v2/{reference.repository.path}/manifests/{reference.digest or reference.tag}"


@asynccontextmanager
async def connect(
    insecure: frozenset[Domain] = frozenset(),
    tokens: TokenCache | None = None,
    *,
    token_hosts: frozenset[str] = frozenset(),
) -> AsyncIterator[RegistryClient]:
    """Yield a client.

    Registries in `insecure` may be without TLS or have any certificate. Any registry may name `token_hosts` for logins.
    """
    connector = aiohttp.TCPConnector(limit_per_host=16)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as session:
        yield RegistryClient(
            AuthenticatedTransport(session, insecure, tokens or TokenCache(ecr_tokens.fetch), token_hosts)
        )
