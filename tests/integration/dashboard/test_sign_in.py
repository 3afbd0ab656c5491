"""Who is let in, for how long, and that no other site can act for a person."""

import asyncio
from datetime import timedelta

import pytest

from gateway.store import api_keys, sign_ins
from gateway.store.database import Pool, transaction
from tests.integration.dashboard.visitor import PAGES, Visitor
from tests.support.api_client import Web, answering


@pytest.fixture
async def visitor(web: Web) -> Visitor:
    return Visitor(web)


@pytest.mark.parametrize("path", [*PAGES, "/applications/x", "/deployments/x", "/inbox/x"])
async def test_a_page_is_shown_to_nobody_who_is_not_signed_in(visitor: Visitor, path: str) -> None:
    page = await visitor.get(f"/dashboard{path}")
    assert (page.status, page.text) == (303, "")
    assert page.headers["Location"].startswith("/dashboard/sign-in?then=")


async def test_the_stream_and_fragments_answer_401_to_nobody(visitor: Visitor) -> None:
    assert (await visitor.get("/dashboard/live")).status == 401
    assert (await visitor.get("/dashboard/signed-in")).status == 401
    assert (await visitor.get("/dashboard", **{"HX-Request": "true"})).status == 401
    assert (await visitor.post("/dashboard/call/project.create", {"name": "p"})).status == 401


async def test_a_key_signs_in_and_its_revocation_signs_out(visitor: Visitor) -> None:
    page = await visitor.sign_in()
    assert (page.status, page.headers["Location"]) == (303, "/dashboard")
    cookie = page.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert (await visitor.get("/dashboard")).status == 200
    async with visitor.web.pool.acquire() as connection:
        await api_keys.revoke_keys(connection, "tests")
    assert (await visitor.get("/dashboard")).status == 303


async def test_a_wrong_key_is_answered_alike_and_counted(visitor: Visitor) -> None:
    page = await visitor.sign_in("wrong")
    assert page.status == 401
    assert "no such API key" in page.text
    assert visitor.cookies == {}
    for number in range(1000):  # one more a second is allowed, so a slow machine needs more of them
        page = await visitor.sign_in(f"guess {number}")
        if page.status == 429:
            break
    assert page.status == 429


async def test_a_sign_out_ends_the_session_on_the_server(visitor: Visitor) -> None:
    await visitor.sign_in()
    kept = dict(visitor.cookies)
    assert (await visitor.post("/dashboard/sign-out", {"form": await visitor.token()})).status == 303
    visitor.cookies = kept
    assert (await visitor.get("/dashboard")).status == 303


async def test_a_link_signs_in_once(visitor: Visitor) -> None:
    async with visitor.web.pool.acquire() as connection, connection.transaction():
        key_id = await connection.fetchval("SELECT key_id FROM api_keys")

        await sign_ins.insert_link(connection, "once", key_id, timedelta(minutes=1))
        await sign_ins.insert_link(connection, "late", key_id, timedelta(seconds=-1))
    shown = await visitor.get("/dashboard/sign-in?link=once")
    assert 'name="link" value="once"' in shown.text, "to look at the link does not use it up"
    assert (await visitor.post("/dashboard/sign-in", {"link": "once"})).status == 303
    assert (await Visitor(visitor.web).post("/dashboard/sign-in", {"link": "once"})).status == 401
    assert (await Visitor(visitor.web).post("/dashboard/sign-in", {"link": "late"})).status == 401


async def test_a_session_is_replaced_at_each_sign_in(visitor: Visitor) -> None:
    visitor.cookies = {"pushdeploy_session": "chosen by somebody else"}
    await visitor.sign_in()
    assert visitor.cookies["pushdeploy_session"] != "chosen by somebody else"


async def test_an_old_token_is_rotated_and_ends_soon(visitor: Visitor) -> None:
    await visitor.sign_in()
    first = visitor.cookies["pushdeploy_session"]
    async with visitor.web.pool.acquire() as connection:
        await connection.execute("UPDATE sign_ins SET created_at = now() - interval '2 hours'")
    assert (await visitor.get("/dashboard")).status == 200
    assert visitor.cookies["pushdeploy_session"] != first
    async with visitor.web.pool.acquire() as connection:
        await connection.execute("UPDATE sign_ins SET expires_at = now() WHERE expires_at < now() + interval '2 min'")
    assert (await visitor.get("/dashboard")).status == 200
    visitor.cookies["pushdeploy_session"] = first
    assert (await visitor.get("/dashboard")).status == 303


async def grow_old(visitor: Visitor) -> None:
    async with visitor.web.pool.acquire() as connection:
        await connection.execute("UPDATE sign_ins SET created_at = now() - interval '2 hours'")


async def test_tabs_that_ask_at_once_get_the_same_new_token_and_their_forms_stay_valid(visitor: Visitor) -> None:
    await visitor.sign_in()
    form, other = await visitor.token(), Visitor(visitor.web, dict(visitor.cookies))
    await grow_old(visitor)
    await asyncio.gather(visitor.get("/dashboard"), other.get("/dashboard"))
    assert visitor.cookies == other.cookies
    async with visitor.web.pool.acquire() as connection:
        await connection.execute("DELETE FROM sign_ins WHERE expires_at < now() + interval '1 day'")
    fields = {"form": form, "name": "p", "then": "/dashboard/projects"}
    assert (await visitor.post("/dashboard/call/project.create", fields)).status == 303


async def test_a_stream_replaces_no_token_which_it_cannot_tell_the_browser(visitor: Visitor) -> None:
    await visitor.sign_in()
    await grow_old(visitor)
    cookie = f"pushdeploy_session={visitor.cookies['pushdeploy_session']}"
    async with visitor.web.client.get("/dashboard/live", headers={"Cookie": cookie}) as stream:
        assert stream.status == 200
    async with visitor.web.pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM sign_ins") == 1


async def test_a_sign_out_ends_the_former_token_too(visitor: Visitor) -> None:
    await visitor.sign_in()
    former = dict(visitor.cookies)
    await grow_old(visitor)
    await visitor.get("/dashboard")
    assert visitor.cookies != former
    assert (await visitor.post("/dashboard/sign-out", {"form": await visitor.token()})).status == 303
    visitor.cookies = former
    assert (await visitor.get("/dashboard")).status == 303


@pytest.mark.parametrize(("body", "status"), [("&" * 1000, 400), ("key=" + "k" * 20_000, 413), ("key=%ff", 400)])
async def test_what_nobody_has_signed_in_for_is_bounded(visitor: Visitor, body: str, status: int) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with visitor.web.client.post("/dashboard/sign-in", data=body, headers=headers) as answer:
        assert answer.status == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_another_site_can_neither_sign_in_nor_send_a_form(visitor: Visitor, headers: dict[str, str]) -> None:
    assert (await visitor.post("/dashboard/sign-in", {"key": visitor.web.key}, **headers)).status == 403
    await visitor.sign_in()
    fields = {"form": await visitor.token(), "name": "p"}
    assert (await visitor.post("/dashboard/call/project.create", fields, **headers)).status == 403
    assert await visitor.web.count("projects") == 0


@pytest.mark.parametrize("token", ["", "x", "00.00", "00." + "0" * 64])
async def test_a_form_without_its_token_does_nothing(visitor: Visitor, token: str) -> None:
    await visitor.sign_in()
    assert (await visitor.post("/dashboard/call/project.create", {"form": token, "name": "p"})).status == 403
    assert await visitor.web.count("projects") == 0


async def test_a_sign_in_whose_cookie_no_browser_keeps_says_so(web_pool: Pool) -> None:
    async with answering(web_pool, settings={"GATEWAY_PUBLIC_URL": "https://gateway.example"}) as web:
        headers = {"Host": "gateway.example", "Origin": "http://gateway.example"}
        page = await Visitor(web).post("/dashboard/sign-in", {"key": web.key}, **headers)
        assert page.status == 403
        assert "https://gateway.example/dashboard" in page.text


async def test_a_form_of_another_session_does_nothing(visitor: Visitor) -> None:
    await visitor.sign_in()
    other = Visitor(visitor.web)
    await other.sign_in()
    fields = {"form": await other.token(), "name": "p"}
    assert (await visitor.post("/dashboard/call/project.create", fields)).status == 403


@pytest.mark.parametrize(
    "then", ["https://evil.example", "//evil.example", "/\\evil.example", "/api/docs", "/dashboardx"]
)
async def test_nobody_is_led_to_another_site(visitor: Visitor, then: str) -> None:
    page = await visitor.post("/dashboard/sign-in", {"key": visitor.web.key, "then": then})
    assert page.headers["Location"] == "/dashboard"


async def ask(web: Web, method: str, path: str, **sent: dict[str, str]) -> int:
    async with web.client.request(method, path, allow_redirects=False, **sent) as answer:
        return int(answer.status)


async def until_most_wait(pool: Pool, most: int) -> None:
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(20), pool.acquire() as connection:
        while await connection.fetchval(waiting) < most:  # noqa: ASYNC110 - of the database
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path", "kind", "given"),
    [
        ("GET", "/dashboard", "headers", {"Cookie": "pushdeploy_session=guessed"}),
        ("POST", "/dashboard/sign-in", "data", {"link": "guessed"}),
        ("POST", "/dashboard/sign-in", "data", {"key": "KEY"}),
        ("GET", "/api/project.all", "headers", {"x-api-key": "KEY"}),
    ],
)
async def test_webhooks_find_connections_however_many_ask_to_be_let_in(
    web: Web, method: str, path: str, kind: str, given: dict[str, str]
) -> None:
    await web.query("project.all")  # so that the key is known
    assert (await web.push("shop/first:1"))[0] == 200
    sent = {kind: {name: value.replace("KEY", web.key) for name, value in given.items()}}
    async with web.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE sign_ins, sign_in_links, api_keys")
        asking = [asyncio.create_task(ask(web, method, path, **sent)) for _ in range(40)]
        await until_most_wait(web.pool, 5)
        assert (await web.push("shop/second:1"))[0] == 200
        assert not any(one.done() for one in asking)
    await asyncio.gather(*asking)


async def test_a_sign_out_ends_a_token_that_is_being_made(visitor: Visitor) -> None:
    await visitor.sign_in()
    token = visitor.cookies["pushdeploy_session"]
    following = f"{sign_ins.base_of(token)}.following"
    async with visitor.web.pool.acquire() as page:
        rotation = page.transaction()
        await rotation.start()
        assert await sign_ins.rotate_sign_in(page, token, following, within=timedelta(minutes=1))
        leaving = asyncio.create_task(sign_out(visitor.web.pool, token))
        await until_most_wait(visitor.web.pool, 1)
        await rotation.commit()
    await leaving
    assert await visitor.web.count("sign_ins") == 0


async def test_a_page_makes_no_token_of_a_session_that_is_signed_out_of(visitor: Visitor) -> None:
    await visitor.sign_in()
    token = visitor.cookies["pushdeploy_session"]
    async with visitor.web.pool.acquire() as leaving:
        leave = leaving.transaction()
        await leave.start()
        await sign_ins.delete_sign_in(leaving, token)
        rotating = asyncio.create_task(rotate(visitor.web.pool, token))
        await until_most_wait(visitor.web.pool, 1)
        await leave.commit()
    assert not await rotating
    assert await visitor.web.count("sign_ins") == 0


async def sign_out(pool: Pool, token: str) -> None:
    async with transaction(pool) as connection:
        await sign_ins.delete_sign_in(connection, token)


async def rotate(pool: Pool, token: str) -> bool:
    async with transaction(pool) as connection:
        following = f"{sign_ins.base_of(token)}.following"
        return await sign_ins.rotate_sign_in(connection, token, following, within=timedelta(minutes=1))
