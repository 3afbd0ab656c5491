"""People sign in through an issuer of OpenID Connect: with what their groups allow, and with their own token alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.cli.demo.process import free_port, until
from gateway.dashboard.oidc_issuer import ISSUER
from gateway.store import api_keys
from gateway.store.database import Pool
from tests.integration.dashboard.issuer import CLIENT, SECRET, Issuer, issuing
from tests.integration.dashboard.visitor import Page, Visitor
from tests.support.api_client import answering
from tests.support.client_programs import PYTHON


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as one:
        yield one


@pytest.fixture
async def visitor(web_pool: Pool, issuer: Issuer) -> AsyncIterator[Visitor]:
    settings = {
        "GATEWAY_OIDC_ISSUER": issuer.url,
        "GATEWAY_OIDC_CLIENT_ID": CLIENT,
        "GATEWAY_OIDC_CLIENT_SECRET": SECRET,
        "GATEWAY_OIDC_GROUPS": "admin=platform,deploy=developers",
        "GATEWAY_PUBLIC_URL": "http://gateway.example",
    }
    async with answering(web_pool, settings=settings) as web:
        yield Visitor(web)


async def begun(visitor: Visitor, issuer: Issuer) -> str:
    """Begin to sign in; return the address that the issuer sends the browser back to."""
    page = await visitor.get("/dashboard/oidc?then=/dashboard/inbox")
    assert page.status == 303
    back = issuer.authorize(page.headers["Location"])
    return back.removeprefix("http://gateway.example")


async def signed_in(visitor: Visitor, issuer: Issuer) -> Page:
    return await visitor.get(await begun(visitor, issuer))


async def scopes(visitor: Visitor) -> list[tuple[str, str]]:
    async with visitor.web.pool.acquire() as connection:
        rows = await connection.fetch("SELECT name, permission FROM api_keys WHERE name LIKE '%(OpenID)'")
    return [(row["name"], row["permission"]) for row in rows]


async def test_a_group_gives_a_scope_and_each_sign_in_renews_the_same_key(visitor: Visitor, issuer: Issuer) -> None:
    page = await signed_in(visitor, issuer)
    assert (page.status, page.headers["Location"]) == (303, "/dashboard/inbox")
    assert (await visitor.get("/dashboard")).status == 200
    assert await scopes(visitor) == [("anna@example.com (OpenID)", "admin")]
    issuer.groups = ["developers", "others"]
    assert (await signed_in(visitor, issuer)).status == 303
    assert await scopes(visitor) == [("anna@example.com (OpenID)", "deploy")]


async def test_a_key_of_an_unknown_kind_does_not_lock_all_out(visitor: Visitor, issuer: Issuer) -> None:
    issuer.strange_keys = [{"kty": "OKP", "crv": "X99", "x": "aa"}, {"kty": "RSA", "n": "AQAB"}, {"kid": "none"}]
    assert (await signed_in(visitor, issuer)).status == 303


async def test_a_person_without_a_group_reads_why(visitor: Visitor, issuer: Issuer) -> None:
    issuer.groups = ["others"]
    page = await signed_in(visitor, issuer)
    assert page.status == 403
    assert "is in no group that may use this gateway" in page.text
    assert await scopes(visitor) == []


async def test_a_person_who_has_lost_their_groups_is_signed_out_everywhere(visitor: Visitor, issuer: Issuer) -> None:
    await signed_in(visitor, issuer)
    elsewhere = Visitor(visitor.web)
    issuer.groups = []
    assert (await signed_in(elsewhere, issuer)).status == 403
    assert (await visitor.get("/dashboard")).status == 303


async def test_groups_of_another_subject_do_not_count(visitor: Visitor, issuer: Issuer) -> None:
    issuer.groups, issuer.userinfo = None, {"groups": ["platform"], "sub": "somebody else"}
    assert (await signed_in(visitor, issuer)).status == 403
    issuer.userinfo = {"groups": ["platform"]}
    assert (await signed_in(visitor, issuer)).status == 303


async def test_a_person_whose_key_was_revoked_stays_out(visitor: Visitor, issuer: Issuer) -> None:
    await signed_in(visitor, issuer)
    async with visitor.web.pool.acquire() as connection:
        await api_keys.revoke_keys(connection, "anna@example.com (OpenID)")
    assert (await visitor.get("/dashboard")).status == 303
    page = await signed_in(visitor, issuer)
    assert page.status == 403
    assert "gateway keys restore" in page.text


@pytest.mark.parametrize(
    ("claims", "header"),
    [
        ({"iss": "https://elsewhere.example"}, {}),
        ({"aud": "another client"}, {}),
        ({"aud": [CLIENT, "another client"]}, {}),
        ({"exp": int(time.time()) - 3600}, {}),
        ({"nonce": "another"}, {}),
        ({"nonce": None}, {}),
        ({}, {"alg": "none"}),
        ({}, {"alg": "HS256"}),
        ({}, {"kid": "2"}),
    ],
)
async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    visitor: Visitor, issuer: Issuer, claims: dict[str, Any], header: dict[str, Any]
) -> None:
    issuer.claims, issuer.header = claims, header
    page = await signed_in(visitor, issuer)
    assert page.status == 401
    assert await scopes(visitor) == []


async def test_an_id_token_of_another_key_is_refused(visitor: Visitor, issuer: Issuer) -> None:
    issuer.signed_by = rsa.generate_private_key(65537, 2048)
    assert (await signed_in(visitor, issuer)).status == 401


async def test_new_keys_of_the_issuer_are_fetched(visitor: Visitor, issuer: Issuer) -> None:
    await signed_in(visitor, issuer)
    issuer.key = rsa.generate_private_key(65537, 2048)
    visitor.web.client.app[ISSUER].provider.keys_fetched -= 60
    assert (await signed_in(visitor, issuer)).status == 303


async def test_a_sign_in_is_ended_by_the_browser_that_began_it(visitor: Visitor, issuer: Issuer) -> None:
    back = await begun(visitor, issuer)
    assert (await Visitor(visitor.web).get(back)).status == 401
    other = Visitor(visitor.web)
    await begun(other, issuer)
    assert (await other.get(back)).status == 401, "it began another one"
    assert (await visitor.get(back)).status == 303
    assert (await visitor.get(back)).status == 401, "a code is used once"


async def test_a_refusal_of_the_issuer_is_shown_as_text(visitor: Visitor, issuer: Issuer) -> None:
    back = (await begun(visitor, issuer)).replace("code=", "error=<script>alert(1)</script>&x=")
    page = await visitor.get(back)
    assert page.status == 401
    assert "<script>alert" not in page.text


async def test_without_an_issuer_there_is_no_such_sign_in(web_pool: Pool) -> None:
    async with answering(web_pool) as web:
        visitor = Visitor(web)
        assert (await visitor.get("/dashboard/oidc")).status == 404
        assert "organization" not in (await visitor.get("/dashboard/sign-in")).text


@pytest.mark.long
async def test_an_issuer_that_others_wrote_signs_in(web_pool: Pool) -> None:
    """The program oidc-provider-mock."""
    port = free_port()
    arguments = ("--port", str(port), "--user-claims", '{"sub": "anna", "groups": ["platform"]}')
    process = await asyncio.create_subprocess_exec(PYTHON / "oidc-provider-mock", *arguments)
    try:
        issuer = f"http://localhost:{port}"
        settings = {
            "GATEWAY_OIDC_ISSUER": issuer,
            "GATEWAY_OIDC_CLIENT_ID": CLIENT,
            "GATEWAY_OIDC_CLIENT_SECRET": SECRET,
            "GATEWAY_OIDC_SCOPES": "openid",
            "GATEWAY_OIDC_GROUPS": "read=*",
            "GATEWAY_PUBLIC_URL": "http://gateway.example",
        }
        async with answering(web_pool, settings=settings) as web, aiohttp.ClientSession() as browser:
            visitor = Visitor(web)

            async def look() -> Page | None:
                page = await visitor.get("/dashboard/oidc")
                return page if page.status == 303 else None

            begins = (await until(look, within=30)).headers["Location"]
            async with browser.post(begins, data={"sub": "anna"}, allow_redirects=False) as answer:
                back = answer.headers["Location"].removeprefix("http://gateway.example")
            assert (await visitor.get(back)).status == 303
            assert (await visitor.get("/dashboard")).status == 200
            assert await scopes(visitor) == [("anna (OpenID)", "read")]
    finally:
        process.terminate()
        await process.wait()
