"""The client sends logins only to hosts of the registry's owner, and requests only addresses it may name."""

import socket
from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from aiohttp import web
from yarl import URL

from gateway.model.errors import Code, Failed, Postponed
from gateway.model.reference import Domain, Reference, parse_domain
from gateway.model.registries import ANONYMOUS, Credentials, Login
from gateway.registry import trusted_hosts
from gateway.registry.client import connect
from gateway.registry.trusted_hosts import Address, TrustedHosts
from tests.support.token_registries import served

DIGEST = "sha256:" + "ab" * 32
USER = Login(Credentials("u", "p"), "with the login")

# What the names of the tests stand for.
WORLD: Mapping[str, str] = {
    "registry-1.docker.io": "44.1.1.1",
    "auth.docker.io": "44.1.1.2",
    "ghcr.io": "140.82.1.1",
    "registry.gitlab.com": "35.1.1.1",
    "gitlab.com": "172.65.1.1",
    "quay.io": "3.1.1.1",
    "rg.fr-par.scw.cloud": "51.1.1.1",
    "api.scaleway.com": "51.1.1.2",
    "registry.example.com": "93.1.1.1",
    "auth.example.com": "93.1.1.2",
    "registry.example.co.uk": "93.1.1.3",
    "evil.co.uk": "6.6.6.6",
    "evil.example.net": "6.6.6.6",
    "a.azurecr.io": "20.1.1.1",
    "b.azurecr.io": "20.1.1.2",
    "registry.corp.example": "10.0.0.5",
    "auth.corp.example": "10.0.0.6",
    "metadata.example.com": "169.254.169.254",
    "inside.example.com": "10.0.0.7",
    "localhost": "127.0.0.1",
}


async def _resolve(host: str, _port: int | None) -> frozenset[Address]:
    try:
        return frozenset({ip_address(host)})
    except ValueError:
        return frozenset({ip_address(WORLD[host])})


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("docker.io", "https://auth.docker.io/token"),
        ("ghcr.io", "https://ghcr.io/token"),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("quay.io", "https://quay.io/v2/auth"),
        ("rg.fr-par.scw.cloud", "https://api.scaleway.com/registry-internal/v1/regions/fr-par/tokens"),
        ("registry.example.com", "https://auth.example.com/token"),
        ("registry.example.com", "https://registry.example.com:8443/token"),
        ("registry.corp.example", "https://auth.corp.example/token"),
        ("registry.corp.example", "https://inside.example.com/token"),
        ("127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("127.0.0.1:5000", "https://localhost:5001/token"),
        ("127.0.0.1:5000", "https://127.0.0.2:5001/token"),
        ("registry.example.com", "https://named.example.net/token"),
        ("registry.example.com", "http://plain.example.net:5001/token"),
    ],
)
async def test_a_login_goes_to_the_token_service_of_its_registry(
    monkeypatch: pytest.MonkeyPatch, registry: str, realm: str
) -> None:
    monkeypatch.setattr(trusted_hosts, "_resolve", _resolve)
    judge = TrustedHosts({"named.example.net"}, {Domain("plain.example.net:5001")})
    plain = registry.startswith("127.")
    await judge.check_realm(URL(realm), parse_domain(registry), plain=plain, login=True)


@pytest.mark.parametrize(
    ("registry", "realm", "login", "why"),
    [
        ("registry.example.com", "https://evil.example.net/token", True, "not known to be its own"),
        ("registry.example.co.uk", "https://evil.co.uk/token", True, "not known to be its own"),
        ("a.azurecr.io", "https://b.azurecr.io/token", True, "not known to be its own"),
        ("registry.example.com", "http://auth.example.com/token", True, "without TLS"),
        ("registry.example.com", "http://registry.example.com/token", False, "without TLS"),
        ("registry.example.com", "https://inside.example.com/token", False, "of a private network"),
        ("registry.example.com", "https://metadata.example.com/token", False, "of a private network"),
        ("registry.corp.example", "https://metadata.example.com/token", False, "of a private network"),
        ("registry.corp.example", "https://127.0.0.1:9000/token", False, "of a private network"),
        ("127.0.0.1:5000", "http://127.0.0.2:5001/token", False, "without TLS"),
    ],
)
async def test_another_host_is_neither_requested_nor_sent_a_login(
    monkeypatch: pytest.MonkeyPatch, registry: str, realm: str, login: bool, why: str
) -> None:
    monkeypatch.setattr(trusted_hosts, "_resolve", _resolve)
    judge = TrustedHosts((), ())
    plain = registry.startswith("127.")
    with pytest.raises(Failed, match=why) as refused:
        await judge.check_realm(URL(realm), parse_domain(registry), plain=plain, login=login)
    assert refused.value.reason.code is Code.DENIED


async def test_a_host_named_with_a_port_is_trusted_at_that_port_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_hosts, "_resolve", _resolve)
    judge, registry = TrustedHosts({"evil.example.net:8443"}, ()), Domain("registry.example.com")
    await judge.check_realm(URL("https://evil.example.net:8443/token"), registry, plain=False, login=True)
    for other in ("https://evil.example.net/token", "https://evil.example.net:9000/token"):
        with pytest.raises(Failed, match="not known to be its own"):
            await judge.check_realm(URL(other), registry, plain=False, login=True)


async def test_without_a_login_any_public_token_service_is_allowed_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_hosts, "_resolve", _resolve)
    realm, registry = URL("https://evil.example.net/token"), Domain("registry.example.com")
    await TrustedHosts((), ()).check_realm(realm, registry, plain=False, login=False)


@pytest.mark.parametrize("redirects", [False, True])
async def test_a_private_host_is_not_requested_for_a_token_or_by_a_redirect(redirects: bool) -> None:
    asked: list[str] = []

    async def inside(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"token": "inside"})

    async def registry(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.Response(status=307, headers={"Location": f"http://{other}/secrets"})
        realm = f"http://{request.host}/token" if redirects else f"http://{other}/token"
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    elsewhere = f"127.0.0.2:{_free('127.0.0.2')}"
    async with served(inside, elsewhere) as other, served(registry) as address, connect() as client:
        with pytest.raises(Failed) as refused:
            await client.resolve(Reference.parse(f"{address}/app:1"), USER)
    assert refused.value.reason.code is Code.DENIED
    assert asked == []


def _free(host: str) -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("body", [b"<html>", b'{"token": ""}', b'{"token": "a\\nb"}', b'{"token": 1}', b"[]", b""])
async def test_an_invalid_token_is_not_sent(body: bytes) -> None:
    shown: list[str] = []

    async def registry(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.Response(body=body, content_type="application/json")
        shown.extend(request.headers.getall("Authorization", []))
        realm = f"http://{request.host}/token"
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})

    async with served(registry) as address, connect() as client:
        with pytest.raises(Postponed):
            await client.resolve(Reference.parse(f"{address}/app:1"), ANONYMOUS)
    assert shown == []


async def test_a_login_is_not_sent_along_a_redirect() -> None:
    seen: list[str | None] = []

    async def storage(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(headers={"Docker-Content-Digest": DIGEST})

    async def registry(request: web.Request) -> web.Response:
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        return web.Response(status=307, headers={"Location": f"http://{other}/blob"})

    async with served(storage) as other, served(registry) as address, connect() as client:
        assert (await client.resolve(Reference.parse(f"{address}/app:1"), USER)).digest == DIGEST
    assert seen == [None]
