"""The registry client classifies error responses and failed connections, and answers challenges."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import trustme
from aiohttp import encode_basic_auth, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.cli.demo.process import free_port
from gateway.model.ecr import AwsIdentity
from gateway.model.errors import Code, Failed, Postponed, RolloutError
from gateway.model.reference import Reference
from gateway.model.registries import ANONYMOUS, Credentials, Login
from gateway.registry.client import Described, RegistryClient, connect
from gateway.registry.rate_limit import retry_after
from gateway.registry.token_cache import TokenCache
from tests.support.token_registries import amazon, served

DIGEST = "sha256:" + "ab" * 32
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
Answers = Callable[[web.Request], web.Response]


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with connect() as one:
        yield one


@asynccontextmanager
async def answering(answer: Answers) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    async with served(handle) as address:
        yield address


async def refusal(act: Awaitable[object]) -> RolloutError:
    with pytest.raises((Failed, Postponed)) as refused:
        await act
    return refused.value


async def test_a_rate_limit_is_reported_with_its_end_and_waited_for(client: RegistryClient) -> None:
    def limit(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "90"})

    async with answering(limit) as address:
        error = await refusal(client.resolve(Reference.parse(f"{address}/app:v1"), ANONYMOUS))
    assert isinstance(error, Postponed)
    assert (error.reason.code, error.retry_after) == (Code.RATE_LIMITED, 90)
    until = datetime.strptime(str(error).rpartition("until ")[2], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert timedelta(seconds=30) < until - datetime.now(UTC) < timedelta(seconds=91)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": "Wed, 25 Nov 2026 12:05:00 GMT"}, 300),
        ({"Retry-After": "Wed, 25 Nov 2026 11:00:00 GMT"}, 0),
        ({"X-Retry-After": str(int(NOW.timestamp()) + 60)}, 60),
        ({"ratelimit-reset": "30"}, 30),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 5)}, 5),
        ({"Retry-After": "999999"}, 6 * 3600),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": f"Wed, 25 Nov 1{'0' * 30} 12:05:00 GMT"}, None),
        ({"Retry-After": f"Wed, 25 Nov 2026 12:05:00 +1{'0' * 30}"}, None),
        ({}, None),
    ],
)
def test_the_retry_time_is_read_from_all_its_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=NOW) == seconds


def _tagged(*tags: str) -> Answers:
    def answer(request: web.Request) -> web.Response:
        if request.path == "/v2/app/tags/list" and tags:
            last = request.query.get("last")
            page = list(tags[:2] if last is None else tags[2:])
            more = {"Link": '</v2/app/tags/list?last=x>; rel="next"'} if last is None and tags[2:] else {}
            return web.json_response({"name": "app", "tags": page}, headers=more)
        return web.Response(status=404)

    return answer


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (("latest", "v1.0.1", "v0.9", "1.0.0"), "The nearest tags are: 1.0.0, v1.0.1, v0.9, latest"),
        ((), "has no repository"),
    ],
)
async def test_a_missing_image_is_reported_with_the_nearest_tags(
    client: RegistryClient, tags: tuple[str, ...], said: str
) -> None:
    async with answering(_tagged(*tags)) as address:
        error = await client.explain_missing(Reference.parse(f"{address}/app:v1.0.0"), ANONYMOUS)
    assert error is not None
    assert error.reason.code is Code.NOT_FOUND
    assert said in str(error)


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://a:99999/", "http://a:b/", f"http://{'a' * 70}.example/", "http://a..b/", "//u:p@a..b/", ""],
)
@pytest.mark.parametrize("header", ["Location", "WWW-Authenticate"])
async def test_an_invalid_address_of_a_token_service_is_reported(
    client: RegistryClient, header: str, address: str
) -> None:
    def send_on(_request: web.Request) -> web.Response:
        value, status = (address, 302) if header == "Location" else (f'Bearer realm="{address}"', 401)
        return web.Response(status=status, headers={header: value})

    async with answering(send_on) as there:
        error = await refusal(client.resolve(Reference.parse(f"{there}/app:v1"), ANONYMOUS))
    assert error.reason.code in {Code.REGISTRY_UNREACHABLE, Code.DENIED}


async def test_a_login_in_a_token_services_address_is_not_used() -> None:
    shown: list[str | None] = []

    def answer(request: web.Request) -> web.Response:
        if request.path == "/token":
            shown.append(request.headers.get("Authorization"))
            return web.json_response({"token": "t"})
        if request.headers.get("Authorization") == "Bearer t":
            return web.Response(headers={"Docker-Content-Digest": DIGEST})
        realm = f'Bearer realm="http://its:own@{request.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    async with connect() as client, answering(answer) as there:
        login = Login(Credentials("u", "p"))
        assert (await client.resolve(Reference.parse(f"{there}/app:v1"), login)).digest == DIGEST
    assert shown == ["Basic dTpw"]


async def test_an_unresolvable_host_is_reported_as_unreachable(client: RegistryClient) -> None:
    error = await refusal(client.resolve(Reference.parse(f"{'a' * 70}.example/app:v1"), ANONYMOUS))
    assert error.reason.code is Code.REGISTRY_UNREACHABLE


async def test_the_platform_of_a_single_image_is_read_from_its_configuration(client: RegistryClient) -> None:
    def answer(request: web.Request) -> web.Response:
        if request.path == f"/v2/app/blobs/{DIGEST}":
            return web.json_response({"os": "linux", "architecture": "arm64"})
        return web.Response(body=orjson.dumps({"config": {"digest": DIGEST}}))

    async with answering(answer) as address:
        assert await client.describe(Reference.parse(f"{address}/app:v1"), ANONYMOUS) == Described("linux/arm64")
    assert await client.describe(Reference.parse(f"{address}/app:v1"), ANONYMOUS) == Described()


async def test_labels_are_read_from_the_first_image_of_an_index_and_annotations_win(client: RegistryClient) -> None:
    config = {"config": {"Labels": {"source": "of the image", "revision": "1", "other": "x", "odd": 3}}}
    attestation = {"digest": "sha256:" + "00" * 32, "platform": {"os": "unknown", "architecture": "unknown"}}
    image = {"digest": "sha256:" + "11" * 32, "platform": {"os": "linux", "architecture": "amd64"}}
    documents = {
        "v1": {"manifests": [attestation, image], "annotations": {"revision": "2"}},
        image["digest"]: {"config": {"digest": "sha256:" + "22" * 32}, "layers": []},
        "sha256:" + "22" * 32: config,
    }

    def answer(request: web.Request) -> web.Response:
        return web.json_response(documents[request.path.rpartition("/")[2]])

    async with answering(answer) as address:
        found = await client.labels(Reference.parse(f"{address}/acme/web:v1"), ANONYMOUS, ("source", "revision", "odd"))
    assert found == {"source": "of the image", "revision": "2"}


async def test_those_who_ask_together_with_one_login_share_a_request(
    client: RegistryClient,
) -> None:
    asked: list[str | None] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization"))
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        if request.headers["Authorization"] == encode_basic_auth("bob", "p"):
            return web.Response(status=403)
        headers = {"Docker-Content-Digest": DIGEST, "Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        return web.Response(body=b"{}", headers=headers)

    alice, bob = (Login(Credentials(name, "p"), name) for name in ("alice", "bob"))
    async with answering(answer) as address:
        wanted = Reference.parse(f"{address}/app:v1")
        answers = await asyncio.gather(
            *(client.resolve(wanted, login) for login in (alice, bob, alice, bob)), return_exceptions=True
        )
    assert [isinstance(one, Failed) for one in answers] == [False, True, False, True]
    proofs = [proof for proof in asked if proof]
    assert sorted(proofs) == sorted(encode_basic_auth(name, "p") for name in ("alice", "bob"))


async def test_what_a_digest_is_was_answered_to_one_login_and_is_kept_for_it(client: RegistryClient) -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path.startswith("/v2/app/blobs/"):
            return web.json_response({"os": "linux", "architecture": "arm64"})
        return web.Response(body=orjson.dumps({"config": {"digest": DIGEST}}))

    async with answering(answer) as address:
        wanted = Reference.parse(f"{address}/app@{DIGEST}")
        described = [await client.describe(wanted, ANONYMOUS) for _ in range(2)]
        assert described == [Described("linux/arm64")] * 2
        assert len(asked) == 2
        await client.describe(wanted, Login(Credentials("alice", "p"), "alice"))
        assert len(asked) == 4
    assert await client.describe(wanted, ANONYMOUS) == Described("linux/arm64")


async def test_an_unreachable_registry_is_reported_with_the_cause(client: RegistryClient) -> None:
    refused = await refusal(client.resolve(Reference.parse(f"127.0.0.1:{free_port()}/app:v1"), ANONYMOUS))
    unknown = await refusal(client.resolve(Reference.parse("nobody.invalid/app:v1"), ANONYMOUS))
    assert "refuses the connection: nothing listens there" in str(refused)
    assert "the name nobody.invalid is not found (DNS)" in str(unknown)
    assert {one.reason.code for one in (refused, unknown)} == {Code.REGISTRY_UNREACHABLE}


@pytest.mark.parametrize("by", ["realm", "token redirect", "redirect"])
@pytest.mark.parametrize("tls", [False, True])
async def test_an_unreachable_service_that_a_registry_names_is_blamed_in_its_place(by: str, tls: bool) -> None:
    def answer(request: web.Request) -> web.Response:
        there = f"{'https' if tls else 'http'}://{service}/token"
        if by == "redirect" or request.path == "/token":
            return web.Response(status=307, headers={"Location": there})
        realm = there if by == "realm" else f"http://{request.host}/token"
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    async with answering(answer) as registry, answering(lambda _: web.Response()) as plain:
        service = plain if tls else f"127.0.0.1:{free_port()}"
        async with connect(token_hosts=frozenset({service})) as client:
            error = await refusal(client.resolve(Reference.parse(f"{registry}/app:v1"), ANONYMOUS))
    named = f"{registry} redirects to," if by == "redirect" else f"{registry} asks for the login,"
    problem = "does not speak TLS: configure TLS there" if tls else "refuses the connection: nothing listens there"
    assert str(error).startswith(f"{service}, where {named} {problem}")
    assert error.reason.code is (Code.REGISTRY_UNTRUSTED if tls else Code.REGISTRY_UNREACHABLE)
    assert "GATEWAY_INSECURE_REGISTRIES" not in str(error)


async def test_an_accepted_authorization_is_cached_until_it_is_denied(client: RegistryClient) -> None:
    login, takes, seen = Login(Credentials("bob", "one")), ["one"], list[str]()

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        if seen[-1] and takes:
            return web.Response(headers={"Docker-Content-Digest": DIGEST})
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    async with answering(answer) as address:
        reference = Reference.parse(f"{address}/app:v1")
        for _ in range(2):
            await client.resolve(reference, login)
        assert [bool(one) for one in seen] == [False, True, True]
        takes.clear()
        error = await refusal(client.resolve(reference, login))
    assert error.reason.code is Code.DENIED
    assert [bool(one) for one in seen[3:]] == [True, False, True]


# -- certificates


def _expired(authority: trustme.CA, host: str) -> tuple[bytes, bytes]:
    """Return a certificate that has ended, and its key."""
    key, long_ago = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) - timedelta(days=9)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
    signing = trustme_key(authority)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(long_ago)
        .not_valid_after(long_ago + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(signing, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return made.public_bytes(Encoding.PEM), pem


def trustme_key(authority: trustme.CA) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@asynccontextmanager
async def over_tls(context: ssl.SSLContext, port: int | None = None) -> AsyncIterator[str]:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(headers={"Docker-Content-Digest": DIGEST})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    port = port or free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        yield f"localhost:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("unknown", "is signed by no authority that is trusted here"),
        ("another name", "is for another name"),
        ("expired", "has expired"),
        ("trusted", ""),
    ],
)
async def test_an_untrusted_certificate_is_reported_with_the_cause(
    client: RegistryClient, tmp_path_factory: pytest.TempPathFactory, kind: str, said: str
) -> None:
    authority, place = trustme.CA(), tmp_path_factory.mktemp("tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "expired":
        certificate, key = _expired(authority, "localhost")
        (place / "own.pem").write_bytes(certificate + key)
        context.load_cert_chain(place / "own.pem")
    else:
        authority.issue_cert("elsewhere.test" if kind == "another name" else "localhost").configure_cert(context)
    trusted = trustme.CA() if kind == "unknown" else authority
    login = Login(ca_certificates=trusted.cert_pem.bytes().decode())
    async with over_tls(context) as address:
        reference = Reference.parse(f"{address}/app:v1")
        if not said:
            assert (await client.resolve(reference, login)).digest == DIGEST
            return
        error = await refusal(client.resolve(reference, login))
    assert isinstance(error, Failed)
    assert error.reason.code is Code.REGISTRY_UNTRUSTED
    assert f"the certificate of {address} {said}" in str(error)


async def test_a_login_with_a_certificate_authority_is_never_sent_without_tls(client: RegistryClient) -> None:
    asked = []

    def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    login = Login(Credentials("bob", "secret"), ca_certificates=trustme.CA().cert_pem.bytes().decode())
    async with answering(answer) as address:
        error = await refusal(client.resolve(Reference.parse(f"{address}/app:v1"), login))
    assert error.reason.code is Code.REGISTRY_UNTRUSTED
    assert "does not speak TLS" in str(error)
    assert asked == []


@asynccontextmanager
async def without_tls() -> AsyncIterator[tuple[int, list[str]]]:
    """Yield the port of a registry that speaks no TLS, and what each connection to it began with."""
    begun: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        begun.append("TLS" if first == b"\x16" else "HTTP")
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            if first != b"\x16":
                await reader.readuntil(b"\r\n\r\n")
            status = "400 Bad Request" if first == b"\x16" else "200 OK"
            head = f"HTTP/1.1 {status}\r\nDocker-Content-Digest: {DIGEST}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1], begun


async def test_a_registry_that_was_found_to_have_no_tls_is_asked_without_it(client: RegistryClient) -> None:
    async with without_tls() as (port, begun):
        for _ in range(3):
            resolved = await client.resolve(Reference.parse(f"localhost:{port}/app:v1"), ANONYMOUS)
            assert resolved.digest == DIGEST
        assert begun == ["TLS", "HTTP", "HTTP", "HTTP"]


async def test_a_registry_that_begins_to_speak_tls_is_asked_with_it(client: RegistryClient) -> None:
    async with without_tls() as (port, _):
        await client.resolve(Reference.parse(f"localhost:{port}/app:v1"), ANONYMOUS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(context)
    async with over_tls(context, port) as address:
        error = await refusal(client.resolve(Reference.parse(f"{address}/app:v1"), ANONYMOUS))
        assert error.reason.code is Code.REGISTRY_UNTRUSTED  # this client does not trust the authority
        trusting = Login(ca_certificates=authority.cert_pem.bytes().decode())
        assert (await client.resolve(Reference.parse(f"{address}/app:v1"), trusting)).digest == DIGEST


# -- tokens that end

ROLE = AwsIdentity("eu-central-1")


class Fetches:
    def __init__(self, life: timedelta) -> None:
        self.life, self.count = life, 0
        self.error: RolloutError | None = None

    async def __call__(self, _amazon: AwsIdentity) -> Credentials:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.count += 1
        return Credentials("AWS", f"token-{self.count}", datetime.now(UTC) + self.life)


async def test_a_token_is_fetched_once_for_concurrent_callers_and_cached() -> None:
    fetches = Fetches(timedelta(hours=12))
    tokens = TokenCache(fetches)
    given = await asyncio.gather(*(tokens.get(ROLE) for _ in range(20)))
    assert (fetches.count, len(set(given))) == (1, 1)
    renewed = await asyncio.gather(*(tokens.get(ROLE, given[0]) for _ in range(20)))
    assert (fetches.count, {one.password for one in renewed}) == (2, {"token-2"})


async def test_a_token_is_renewed_early_and_used_until_it_expires_where_renewal_fails() -> None:
    fetches = Fetches(timedelta(hours=12))
    tokens = TokenCache(fetches)
    first = await tokens.get(ROLE)
    tokens._entries[ROLE].renew_at = datetime.now(UTC)  # noqa: SLF001 - half of its life is over
    fetches.error = Postponed(Code.REGISTRY_UNREACHABLE, "Amazon is away")
    assert await tokens.get(ROLE) == first
    tokens._entries[ROLE].renew_at = datetime.now(UTC)  # noqa: SLF001
    fetches.error = None
    assert (await tokens.get(ROLE)).password == "token-2"
    fetches.error = Postponed(Code.REGISTRY_UNREACHABLE, "Amazon is away")
    with pytest.raises(Postponed, match="Amazon is away"):
        await tokens.get(ROLE, Credentials("AWS", "token-2", tokens._entries[ROLE].credentials.expires_at))  # type: ignore[union-attr]  # noqa: SLF001


async def test_a_token_for_ecr_public_is_requested_from_its_own_api(
    client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amazon() as (aws, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        given = await client.credentials(
            Login(AwsIdentity("us-east-1", public=True, access_key_id="AKIAX", secret_access_key="s"))
        )
        assert given is not None
        assert (given.username, given.password) == ("AWS", "token-0")
        assert aws.asked == ["AKIAX"]
