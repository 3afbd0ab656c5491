"""Signatures are found where registries hold them; what a registry answers wrongly is never a verdict."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.cli.demo.images import digest_of
from gateway.cli.demo.registry import PrivateRegistry
from gateway.gates._findings import verify
from gateway.gates.signature import Rule, decide
from gateway.model.errors import Code
from gateway.model.gates import Decision, Verdict
from gateway.model.reference import Digest, Reference
from gateway.model.registries import ANONYMOUS, Credentials, Login
from gateway.registry import ecr_tokens
from gateway.registry.attached import SIGNATURES
from gateway.registry.client import connect
from gateway.registry.signatures import fetch, fetch_index
from gateway.registry.token_cache import TokenCache
from gateway.registry.transport import AuthenticatedTransport
from tests.support.attaching import INDEX, MANIFEST, Signable, pushed
from tests.support.candidates import a_candidate
from tests.support.signing import BUNDLE, SIMPLE, SigningKey, b64, signed_bundle, simple_payload, statement
from tests.support.token_registries import served

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
Answering = Callable[[web.Request, Callable[[], Awaitable[web.Response]]], Awaitable[web.StreamResponse]]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.generate(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.generate(tmp_path_factory.mktemp("keys"), "Ed25519")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


@pytest.fixture
def transport(session: aiohttp.ClientSession) -> AuthenticatedTransport:
    return AuthenticatedTransport(session, frozenset(), TokenCache(ecr_tokens.fetch))


@pytest.fixture
async def image(registry: PrivateRegistry, session: aiohttp.ClientSession, request: pytest.FixtureRequest) -> Signable:
    name = f"{abs(hash(request.node.nodeid)):x}"
    return await pushed(session, registry.address, f"signed/{name}", name)


async def ask(
    transport: AuthenticatedTransport,
    image: Signable,
    key: SigningKey,
    *,
    waited: float = 60,
    address: str = "",
    deadline: float = 30,
    login: Login = ANONYMOUS,
) -> Decision:
    """Return the decision about the image, by default at the end of the wait; `address`: what stands before it."""
    reference = image.reference
    if address:
        reference = Reference.parse(f"{address}/{reference.repository.path}@{image.digest}")
    rule = Rule.model_validate({"keys": [key.public]})
    found = await fetch(transport, reference, login, SIGNATURES, deadline=deadline)
    since = NOW - timedelta(seconds=waited)
    candidate = dataclasses.replace(a_candidate(image.digest), reference=reference, first_asked_at=since)
    return decide(rule, verify({image.digest: found}, rule), candidate, NOW)


async def sign(image: Signable, key: SigningKey) -> None:
    content = simple_payload(image.digest)
    await image.sign(content, key.sign(content))


async def refer(image: Signable, key: SigningKey) -> dict[str, Any]:
    return await image.referrer(signed_bundle(key, statement(image.digest)))


async def test_a_signature_is_found_by_its_tag_and_a_late_one_is_waited_for(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey, other_key: SigningKey
) -> None:
    assert (await ask(transport, image, key)).verdict is Verdict.REFUSED
    waits = await ask(transport, image, key, waited=1)
    assert (waits.verdict, waits.code, waits.ask_again_at) == (
        Verdict.UNKNOWN,
        Code.UNSIGNED,
        NOW + timedelta(seconds=3),
    )

    await sign(image, key)

    passes = await ask(transport, image, key, waited=20)
    assert (passes.verdict, passes.evidence["places"]) == (Verdict.PASSED, [f"tag {image.tag}.sig"])
    assert (await ask(transport, image, other_key)).verdict is Verdict.REFUSED


async def test_a_signature_is_found_by_the_index_that_lists_referrers(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    bundle = await refer(image, key)
    # As it may be listed: without the type of the artifact, and beside others.
    await image.list_referrers({"mediaType": MANIFEST, "digest": image.digest, "size": 2}, bundle)
    assert (await ask(transport, image, key)).evidence["places"] == [f"referrer {bundle['digest']}"]

    await image.list_referrers({**bundle, "artifactType": "application/spdx+json"})
    assert (await ask(transport, image, key)).verdict is Verdict.PASSED


async def test_a_signature_of_cosign_2_is_found_among_the_referrers(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    content = simple_payload(image.digest)
    proof = {"dev.cosignproject.cosign/signature": b64(key.sign(content))}
    await image.list_referrers(await image.referrer(content, SIMPLE, annotations=proof))
    assert (await ask(transport, image, key)).verdict is Verdict.PASSED


async def test_what_is_stored_for_another_image_shows_nothing(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey, session: aiohttp.ClientSession
) -> None:
    other = await pushed(session, image.reference.repository.domain, image.reference.repository.path, "other")
    content = simple_payload(other.digest)
    await image.sign(content, key.sign(content))
    bundle = signed_bundle(key, statement(other.digest))
    await image.list_referrers(await image.referrer(bundle), await image.referrer(bundle + b" ", subject=other.digest))
    refused = await ask(transport, image, key)
    assert (refused.verdict, f"is for {other.digest}" in refused.message) == (Verdict.REFUSED, True)
    assert len(refused.evidence["found"]) == 2


async def test_an_index_that_lists_itself_and_the_image_ends(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    await image.list_referrers({"mediaType": MANIFEST, "digest": image.digest, "size": 2})
    inner = await image.put("inner", {"manifests": []}, INDEX)
    await image.list_referrers(inner, {"mediaType": MANIFEST, "digest": image.digest, "size": 2}, inner)
    assert (await ask(transport, image, key)).verdict is Verdict.REFUSED


async def test_an_index_is_told_from_one_image(transport: AuthenticatedTransport, image: Signable) -> None:
    entry = {"mediaType": MANIFEST, "digest": image.digest, "size": 2, "platform": {"os": "linux"}}
    index = await image.put("index", {"manifests": [entry]}, INDEX)
    found = await fetch_index(transport, image.reference.with_digest(Digest(index["digest"])), ANONYMOUS)
    assert found is not None
    assert json.loads(found)["manifests"] == [entry]
    assert await fetch_index(transport, image.reference, ANONYMOUS) is None


async def test_a_content_of_another_size_than_was_said_is_left_out(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    content = simple_payload(image.digest)
    await image.sign(content, key.sign(content))
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
    proof = {"dev.cosignproject.cosign/signature": b64(key.sign(content))}
    layer = {"mediaType": SIMPLE, "digest": digest_of(content), "size": 1, "annotations": proof}
    await image.put(f"{image.tag}.sig", {"config": config, "layers": [layer]})
    assert (await ask(transport, image, key)).verdict is Verdict.REFUSED


async def test_many_signatures_of_others_do_not_refuse_a_valid_one(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey, other_key: SigningKey
) -> None:
    content = simple_payload(image.digest)
    name = "dev.cosignproject.cosign/signature"
    bogus = [(content, SIMPLE, {name: b64(other_key.sign(content))})] * 80
    valid = (content, SIMPLE, {name: b64(key.sign(content))})

    await image.add_to_tag("sig", *bogus, valid)
    assert (await ask(transport, image, key)).verdict is Verdict.PASSED
    await image.add_to_tag("sig", valid, *bogus)
    waits = await ask(transport, image, key, waited=10_000)
    assert (waits.verdict, "17 were left out" in waits.message) == (Verdict.UNKNOWN, True)


# -- a registry that answers wrongly


@dataclasses.dataclass
class Front:
    """Stands before a registry. It has the referrers API, if so set, and answers the requests to one path wrongly."""

    registry: str
    session: aiohttp.ClientSession
    referrers: list[dict[str, Any]] | None = None
    fault: Answering | None = None
    at: str = ""
    #: what was requested
    paths: list[str] = dataclasses.field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        here = f"{request.method} {request.path}"
        self.paths.append(here)

        async def usual() -> web.Response:
            if "/referrers/" in request.path and self.referrers is not None:
                return web.json_response({"schemaVersion": 2, "manifests": self.referrers}, content_type=INDEX)
            headers = {"Accept": request.headers.get("Accept", "")}
            url = f"http://{self.registry}{request.path_qs}"
            async with self.session.request(request.method, url, headers=headers) as answer:
                kept = {
                    name: answer.headers[name]
                    for name in ("Content-Type", "Docker-Content-Digest")
                    if name in answer.headers
                }
                return web.Response(status=answer.status, headers=kept, body=await answer.read())

        return await self.fault(request, usual) if self.fault and here == self.at else await usual()


def status(code: int, **headers: str) -> Answering:
    async def answer(_request: web.Request, _usual: Callable[[], Awaitable[web.Response]]) -> web.Response:
        return web.json_response({"errors": []}, status=code, headers=headers)

    return answer


async def rubbish(_request: web.Request, _usual: Callable[[], Awaitable[web.Response]]) -> web.Response:
    return web.Response(text="<html>Sign in to the hotel's network</html>", content_type="text/html")


async def missing_page(request: web.Request, usual: Callable[[], Awaitable[web.Response]]) -> web.Response:
    if "/referrers/" in request.path:
        return await usual()  # a registry without this API may answer so
    return web.Response(status=404, text="<html>", content_type="text/html")


async def truncated(request: web.Request, usual: Callable[[], Awaitable[web.Response]]) -> web.StreamResponse:
    """Send less than was announced, and hang up."""
    answer = await usual()
    if not isinstance(answer.body, bytes) or not answer.body or answer.status != 200:
        return await status(502)(request, usual)
    response = web.StreamResponse(headers={**answer.headers, "Content-Length": str(len(answer.body))})
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


async def other_json(_request: web.Request, usual: Callable[[], Awaitable[web.Response]]) -> web.Response:
    answer = await usual()
    kept = {"Content-Type": answer.headers["Content-Type"]}
    return web.Response(status=200, body=b'{"status": "ok"}', headers=kept)


async def slow(_request: web.Request, usual: Callable[[], Awaitable[web.Response]]) -> web.Response:
    await asyncio.sleep(2)
    return await usual()


FAULTS: dict[str, Answering] = {
    "429": status(429, **{"Retry-After": "30"}),
    "401": status(401, **{"WWW-Authenticate": 'Basic realm="x"'}),
    "403": status(403),
    "500": status(500),
    "503": status(503),
    "rubbish": rubbish,
    "a page that says 404": missing_page,
    "truncated": truncated,
    "other JSON": other_json,
    "slow": slow,
}
PLACES = ("none", "tag", "referrer", "api")


@asynccontextmanager
async def fronted(image: Signable, key: SigningKey, place: str) -> AsyncIterator[tuple[Front, str]]:
    """Stand before the registry, where the image is signed in one place, or nowhere."""
    front = Front(image.reference.repository.domain, image.session)
    if place == "tag":
        await sign(image, key)
    if place == "referrer":
        await image.list_referrers(await refer(image, key))
    if place == "api":
        front.referrers = [{**await refer(image, key), "artifactType": BUNDLE}]
    async with served(front.handle) as address:
        yield front, address


def cases() -> Iterator[Any]:
    """Yield each fault in one place for `make test`, and in the others for `make long`."""
    for number, fault in enumerate(FAULTS):
        for place in PLACES:
            ordinary = place == PLACES[number % len(PLACES)] and fault != "slow"
            yield pytest.param(place, fault, id=f"{place}-{fault}", marks=[] if ordinary else [pytest.mark.long])


@pytest.mark.parametrize(("place", "fault"), list(cases()))
async def test_no_fault_at_any_request_makes_a_wrong_verdict(
    image: Signable, key: SigningKey, place: str, fault: str
) -> None:
    right = Verdict.REFUSED if place == "none" else Verdict.PASSED
    async with fronted(image, key, place) as (front, address):

        async def asked() -> Verdict:
            # A session of its own: no connection and no authorization of an earlier request is used.
            async with aiohttp.ClientSession() as session:
                transport = AuthenticatedTransport(session, frozenset(), TokenCache(ecr_tokens.fetch))
                deadline = 0.5 if front.at and fault == "slow" else 30
                return (await ask(transport, image, key, address=address, deadline=deadline)).verdict

        front.fault = FAULTS[fault]
        assert await asked() is right
        paths = list(dict.fromkeys(front.paths))
        assert len(paths) >= 4
        for front.at in paths:
            found = {Verdict.PASSED} if place != "none" else set()
            harmless = (fault, front.at.partition(" ")[0]) == ("other JSON", "HEAD") or (
                fault == "a page that says 404" and "/referrers/" in front.at
            )
            assert await asked() in ({right} if harmless else {*found, Verdict.UNKNOWN}), front.at


async def test_a_rate_limit_is_told_with_its_end_and_ends_further_requests(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    async with fronted(image, key, "referrer") as (front, address):
        front.fault, front.at = FAULTS["429"], f"GET /v2/{image.reference.repository.path}/manifests/{image.tag}.sig"
        waits = await ask(transport, image, key, address=address)
        assert (waits.verdict, waits.code) == (Verdict.UNKNOWN, Code.RATE_LIMITED)
        assert waits.ask_again_at == NOW + timedelta(seconds=30)
        assert len(front.paths) < 6


async def test_contents_elsewhere_get_no_login_and_are_told_by_their_digest(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    contents, seen = [simple_payload(image.digest), b"something else"], []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=contents[len(seen) - 1])

    async with fronted(image, key, "tag") as (front, _), served(elsewhere) as store:

        async def redirecting(request: web.Request) -> web.StreamResponse:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in request.path:
                raise web.HTTPTemporaryRedirect(f"http://{store}/content")
            return await front.handle(request)

        login = Login(Credentials("robot", "s3cret"))
        async with served(redirecting) as address:
            decisions = [await ask(transport, image, key, address=address, login=login) for _ in contents]
    assert [one.verdict for one in decisions] == [Verdict.PASSED, Verdict.UNKNOWN]
    assert seen == [None, None]


async def test_pages_of_the_referrers_api_are_followed_on_the_registry_itself(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    async with fronted(image, key, "api") as (front, _):
        listed = front.referrers or []

        async def paged(request: web.Request) -> web.StreamResponse:
            if "/referrers/" not in request.path:
                return await front.handle(request)
            page = int(request.query.get("page", "0"))
            body = {"schemaVersion": 2, "manifests": listed if page == 2 else []}
            link = {"Link": f'<http://127.0.0.1:1/elsewhere?page={page + 1}>; rel="next"'} if page < 2 else {}
            return web.json_response(body, headers=link)  # some registries call it plain JSON

        async with served(paged) as there:
            assert (await ask(transport, image, key, address=there)).verdict is Verdict.PASSED


async def test_all_who_ask_at_once_share_the_requests(image: Signable, key: SigningKey) -> None:
    async with fronted(image, key, "tag") as (front, address), connect() as client:
        reference = Reference.parse(f"{address}/{image.reference.repository.path}:v1@{image.digest}")
        alone = await client.attached(reference, ANONYMOUS, SIGNATURES)
        once = len(front.paths)
        answers = await asyncio.gather(*(client.attached(reference, ANONYMOUS, SIGNATURES) for _ in range(50)))
        assert answers == [alone] * 50
        assert len(front.paths) <= 3 * once


async def test_what_was_listed_before_a_registry_had_the_api_is_found_too(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    async with fronted(image, key, "referrer") as (front, address):
        front.referrers = []
        assert (await ask(transport, image, key, address=address)).verdict is Verdict.PASSED


async def test_a_listing_that_is_none_is_no_signature(
    transport: AuthenticatedTransport, image: Signable, key: SigningKey
) -> None:
    async with fronted(image, key, "none") as (front, address):
        entries: list[Any] = [1, None, [], {"digest": "sha256:" + "AB" * 32}, {"digest": {}}]
        for front.referrers, verdict in (  # type: ignore[assignment]  # a registry may say anything
            (entries, Verdict.REFUSED),
            ("rubbish", Verdict.UNKNOWN),
            ({"a": 1}, Verdict.UNKNOWN),
        ):
            assert (await ask(transport, image, key, address=address)).verdict is verdict
        assert not [path for path in front.paths if "/blobs/" in path]
