"""The link in an alert: it shows, its form answers once, and whoever only follows it approves nothing."""

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.gates.approval import hash_token
from gateway.model.errors import Code
from gateway.model.gates import Verdict
from tests.support.api_client import Web
from tests.support.approving import Asking, a_key, digest

FORM = {"answer": "approve", "digest": digest("a")}


@pytest.fixture
async def asking(web: Web) -> Asking:
    await web.mutate("application.create", name="Shop <b>", applicationId="app", dockerImage="acme/web:v1")
    await web.push("acme/web:v1")
    asking = Asking(web.pool, {"count": 1, "link": True})
    await asking.ask()
    return asking


async def path_of(asking: Asking) -> str:
    """Return the path of a link as an alert has it."""
    match = re.search(r"https://gateway\.example\.com(/approvals/[A-Za-z0-9_-]{43})\n", await asking.invite())
    assert match is not None
    return match[1]


async def send(web: Web, path: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str, Any]:
    """Send the form, or GET the page, and return the status, the text and the headers."""
    method = "GET" if form is None else "POST"
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    data = None if form is None else urlencode(form).encode()
    async with web.client.request(method, path, data=data, headers=sent) as answer:
        return answer.status, await answer.text(), answer.headers


async def standing(web: Web, asking: Asking) -> str:
    return str((await web.query("approval.one", approvalId=await asking.open_id()))["standing"])


async def test_following_the_link_approves_nothing_and_its_form_does_once(web: Web, asking: Asking) -> None:
    path = await path_of(asking)
    for _ in range(2):  # previews and mail scanners
        status, page, _ = await send(web, path)
        assert (status, digest("a") in page, 'form method="post"' in page) == (200, True, True)
    async with web.client.head(path) as head:
        assert head.status == 200
    assert await standing(web, asking) == "waiting"
    status, page, _ = await send(web, path, FORM)
    assert (status, "Approved: Shop" in page) == (200, True)
    assert await standing(web, asking) == "approved"
    assert (await asking.ask()).message == "approved by a link in an alert"
    for form in (FORM, None):  # a replay
        assert (await send(web, path, form))[0] == 404


async def test_a_link_that_is_used_twice_at_once_answers_once(web: Web, asking: Asking) -> None:
    path = await path_of(asking)
    answers = await asyncio.gather(*(send(web, path, FORM) for _ in range(6)))
    assert sorted(status for status, *_ in answers) == [200, *[404] * 5]


async def test_several_links_are_one_approver(web: Web, asking: Asking) -> None:
    asking.rule = {"count": 2, "link": True}
    await asking.ask()
    for path in (await path_of(asking), await path_of(asking)):
        assert (await send(web, path, FORM))[0] == 200
    assert "1 of 2" in (await asking.ask()).message


async def test_it_rejects_with_a_reason(web: Web, asking: Asking) -> None:
    path = await path_of(asking)
    assert (await send(web, path, {"answer": "reject", "digest": digest("a"), "reason": " "}))[0] == 400
    status, _, _ = await send(web, path, {"answer": "reject", "digest": digest("a"), "reason": "no <script>\0"})
    assert status == 200
    assert (await asking.ask()).code is Code.APPROVAL_REJECTED


@pytest.mark.parametrize(
    "form", [{}, {"answer": "defer"}, {"answer": "approve"}, {"answer": "approve", "digest": digest("b")}]
)
async def test_a_request_that_is_not_the_form_of_the_page_answers_nothing(
    web: Web, asking: Asking, form: dict[str, str]
) -> None:
    path = await path_of(asking)
    assert (await send(web, path, form))[0] in {400, 409}
    assert await standing(web, asking) == "waiting"
    assert (await send(web, path, FORM))[0] == 200  # and does not use it up


async def test_a_guessed_expired_or_foreign_link_is_not_valid(web: Web, asking: Asking) -> None:
    path = await path_of(asking)
    _, _, token = path.rpartition("/")
    stored = await web.pool.fetchval("SELECT token_hash FROM approval_links")
    assert stored == hash_token(token)
    assert token not in str(await web.pool.fetch("SELECT * FROM gate_verdicts"))
    for wrong in (token[:-1], token[:-1] + ("A" if token[-1] != "A" else "B"), stored.hex(), "%00" * 43):
        for form in (None, FORM):
            assert (await send(web, f"/approvals/{wrong}", form))[0] == 404
    await web.pool.execute("UPDATE approval_links SET expires_at = now() - interval '1 second'")
    assert [(await send(web, path, form))[0] for form in (None, FORM)] == [404, 404]
    assert await standing(web, asking) == "waiting"


async def test_a_link_is_for_what_its_alert_was_about(web: Web, asking: Asking) -> None:
    path = await path_of(asking)
    asking.digest = digest("b")
    await asking.ask()
    _, page, _ = await send(web, path)
    assert ("<form" in page, "not asked any more" in page) == (False, True)
    status, page, _ = await send(web, path, FORM)
    assert (status, digest("b") in page) == (409, True)
    assert await standing(web, asking) == "waiting"


async def test_a_rule_without_links_gives_none_and_takes_none(web: Web, asking: Asking) -> None:
    path = await path_of(asking)
    asking.rule = {"count": 1}
    await asking.ask()
    assert (await send(web, path, FORM))[0] == 403
    text = await asking.invite()
    assert ("approvals/" in text, f"gateway approvals approve {await asking.open_id()}" in text) == (False, True)
    asking.rule, asking.settings = {"count": 1, "link": True}, {}
    assert "approvals/" not in await asking.invite()  # without GATEWAY_PUBLIC_URL
    key, _ = await a_key(web.pool, "ann")
    assert (await web.post("/api/approval.approve", {"approvalId": await asking.open_id()}, **{"x-api-key": key}))[
        0
    ] == 200
    assert (await asking.ask()).verdict is Verdict.PASSED


async def test_the_page_is_safe_to_show(web: Web, asking: Asking) -> None:
    await web.mutate("application.update", applicationId="app", name='"><script>alert(1)</script>\u202egnp')
    status, page, headers = await send(web, await path_of(asking), Cookie="a=b")
    assert status == 200
    assert "<script" not in page
    assert "\u202e" not in page
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert "Set-Cookie" not in headers


async def test_one_address_can_try_only_so_often(web: Web, asking: Asking) -> None:
    wrong = "/approvals/" + "A" * 43
    statuses = []
    for _ in range(25):
        async with web.client.get(wrong, headers={"X-Forwarded-For": "192.0.2.7"}) as answer:
            statuses.append(answer.status)
    assert statuses[0] == 404
    assert statuses[-1] == 429
    assert (await send(web, await path_of(asking)))[0] == 200  # others are not held up
