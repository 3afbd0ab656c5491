"""Fetch what is attached to an image: signatures and attestations, in the places where they are stored.

    tag sha256-<hex>.sig   an image manifest; each layer is a signed text, and its annotation the signature
    tag sha256-<hex>.att   the same for attestations; each layer is a DSSE envelope
    referrers              manifests whose `subject` is the image, listed by the referrers API; where a registry has no
                           such API, by an index with the tag sha256-<hex>

https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers

The number of requests, their time and their bytes are bounded.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.model.errors import Code, Postponed, RolloutError
from gateway.model.reference import Digest, Reference, is_digest
from gateway.model.registries import Login
from gateway.registry import errors
from gateway.registry.attached import (
    Attached,
    Listed,
    Stored,
    Wanted,
    check_digest,
    likely_first,
    next_query,
    objects,
    parse_manifest,
    parse_referrers,
    wanted_layers,
)
from gateway.registry.errors import Subject, raise_for_status
from gateway.registry.responses import INDEXES, MANIFESTS, MISSING, Answer
from gateway.registry.transport import AuthenticatedTransport

MAX_STORED = 64  # signatures or attestations of one image that are read
_MAX_REFERRERS = 64  # manifests that are read
_MAX_PAGES = 4  # of the referrers API
_MAX_TOTAL = 16 * 1024**2  # bytes
_AT_ONCE = 8  # requests
_DEADLINE = 45.0  # seconds, for all requests; a gate gives it a minute
# How registries without the referrers API answer: https://github.com/google/go-containerregistry takes these so too.
_NO_REFERRERS_API = frozenset({400, 404, 405, 406, 501})
_HTML = "text/html"


async def fetch(
    transport: AuthenticatedTransport,
    reference: Reference,
    login: Login,
    wanted: Wanted,
    *,
    deadline: float = _DEADLINE,
) -> Attached:
    """Return what is attached to the image, which is named by its digest. Raises nothing."""
    fetcher = _Fetcher(transport, reference, login, wanted)
    try:
        async with asyncio.timeout(deadline):
            await fetcher.run()
    except TimeoutError:
        domain = reference.repository.domain
        fetcher.note(
            Postponed(
                Code.REGISTRY_UNREACHABLE, f"{domain} takes over {deadline:.0f} s to answer for signatures of an image"
            )
        )
    return fetcher.attached


async def fetch_index(transport: AuthenticatedTransport, reference: Reference, login: Login) -> bytes | None:
    """Return the index with the reference's digest, None where that is the manifest of one image.

    Raises Failed or Postponed.
    """
    subject = Subject.of(reference)
    answer = await transport.request("GET", _manifest_path(reference, str(reference.digest)), subject, login)
    raise_for_status(answer.status, answer.headers, subject, login)
    found = parse_manifest(answer, subject, reference.digest)
    return answer.body if "manifests" in found else None


class _Fetcher:
    """Fetches what is attached to one image. A fault ends the work that meets it, not the rest."""

    def __init__(self, transport: AuthenticatedTransport, reference: Reference, login: Login, wanted: Wanted) -> None:
        self._transport, self._reference, self._login, self._wanted = transport, reference, login, wanted
        self._subject = Subject.of(reference)
        self._repository = f"v2/{reference.repository.path}"
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._listed: list[Listed] = []
        self._stored: list[Stored] = []
        self._faults: list[RolloutError] = []
        self._left_out = 0
        #: the registry limits or denies requests: it is not asked further
        self._blocked = False

    @property
    def attached(self) -> Attached:
        waits = [error.retry_after for error in self._faults if isinstance(error, Postponed) and error.retry_after]
        reasons = dict.fromkeys(error.reason for error in self._faults)
        return Attached(tuple(self._stored), tuple(reasons), self._left_out, max(waits, default=None))

    def note(self, error: RolloutError) -> None:
        self._faults.append(error)
        self._blocked |= error.reason.code in {Code.RATE_LIMITED, Code.DENIED}

    async def run(self) -> None:
        tag = str(self._reference.digest).replace(":", "-")
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._noting(self._read_tag, f"{tag}.{self._wanted.suffix}"))
            _ = group.create_task(self._noting(self._read_referrers, tag))
            _ = group.create_task(self._noting(self._check_image))
        async with asyncio.TaskGroup() as group:
            for digest, layers in self._plan().items():
                _ = group.create_task(self._noting(self._read_content, digest, layers))

    async def _noting(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            await work(*arguments)
        except RolloutError as error:
            self.note(error)

    async def _check_image(self) -> None:
        """Check that the registry serves the image: else its answer that there is no signature says nothing."""
        answer = await self._request("HEAD", _manifest_path(self._reference, str(self._reference.digest)))
        if answer.status == MISSING:
            raise Postponed(Code.NOT_FOUND, f"{self._subject.domain} does not serve {self._subject.text} at present")
        raise_for_status(answer.status, answer.headers, self._subject, self._login)
        if answer.media_type not in {*INDEXES, *MANIFESTS}:
            raise errors.not_a_manifest(self._subject, answer)

    async def _read_tag(self, tag: str) -> None:
        found = await self._get_manifest(tag)
        if found is not None:
            self._listed += wanted_layers(found, self._wanted, f"tag {tag}")

    async def _read_referrers(self, tag: str) -> None:
        entries = await self._ask_referrers_api()
        if not entries:
            # Also where the API lists nothing: what was pushed before a registry had it may be in this index alone.
            # No entry is dropped for its artifactType: those who keep it up need not fill that in.
            entries = objects((await self._get_manifest(tag) or {}).get("manifests"))
        digests = likely_first(entries, self._wanted)
        self._left_out += max(0, len(digests) - _MAX_REFERRERS)
        async with asyncio.TaskGroup() as group:
            for digest in digests[:_MAX_REFERRERS]:
                _ = group.create_task(self._noting(self._read_referrer, digest))

    async def _ask_referrers_api(self) -> list[Mapping[str, Any]]:
        """Return the entries of the API that may sign; none where the registry has no such API."""
        path = f"{self._repository}/referrers/{self._reference.digest}"
        entries: list[Mapping[str, Any]] = []
        query: Mapping[str, str] = {}
        for page in range(_MAX_PAGES):
            answer = await self._request("GET", path, query=query)
            if page == 0 and answer.status in _NO_REFERRERS_API:
                return []
            raise_for_status(answer.status, answer.headers, self._subject, self._login)
            entries += parse_referrers(answer, self._subject)
            following = next_query(answer)
            if not following or following == query:
                return entries
            query = following
        self._left_out += 1
        return entries

    async def _read_referrer(self, digest: Digest) -> None:
        found = await self._get_manifest(digest)
        if found is None:
            return
        subject = found.get("subject")
        if not isinstance(subject, Mapping) or subject.get("digest") == self._reference.digest:
            self._listed += wanted_layers(found, self._wanted, f"referrer {digest}")

    async def _read_content(self, digest: Digest, layers: Sequence[Listed]) -> None:
        answer = await self._request("GET", f"{self._repository}/blobs/{digest}", headers={"Accept": "*/*"})
        if self._has_none(answer):
            return
        raise_for_status(answer.status, answer.headers, self._subject, self._login)
        check_digest(answer.body, digest, self._subject)
        # What is larger than was said is left out: the bounds count what was said.
        fitting = [one for one in layers if one.size == len(answer.body)]
        self._stored += [Stored(one.form, answer.body, one.annotations, one.place) for one in fitting]

    def _plan(self) -> dict[Digest, list[Listed]]:
        """Return which contents to read, and the layers that each of them is."""
        planned: dict[Digest, list[Listed]] = {}
        total = taken = 0
        for layer in self._listed:
            size = 0 if layer.digest in planned else layer.size
            if taken >= MAX_STORED or total + size > _MAX_TOTAL:
                self._left_out += 1
                continue
            total, taken = total + size, taken + 1
            planned.setdefault(layer.digest, []).append(layer)
        return planned

    async def _get_manifest(self, name: str) -> Mapping[str, Any] | None:
        answer = await self._request("GET", _manifest_path(self._reference, name))
        if self._has_none(answer):
            return None
        raise_for_status(answer.status, answer.headers, self._subject, self._login)
        return parse_manifest(answer, self._subject, Digest(name) if is_digest(name) else None)

    def _has_none(self, answer: Answer) -> bool:
        """Tell whether the registry answers that it has no such thing; raises Postponed for a page that says so."""
        if answer.status == MISSING and answer.media_type == _HTML:
            raise errors.not_a_manifest(self._subject, answer)
        return answer.status == MISSING

    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        async with self._slots:
            if self._blocked:
                raise self._faults[-1]
            return await self._transport.request(
                method, path, self._subject, self._login, headers=headers, query=query or None
            )


def _manifest_path(reference: Reference, name: str) -> str:
    return f"v2/{reference.repository.path}/manifests/{name}"
