"""What happens to applications is told to each receiver, in order, whatever the receivers do."""

import hashlib
import hmac
import socket
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web as http

from gateway.cli.demo.process import until
from gateway.model.alerts import EventKind, Occurrence, of_deployment
from gateway.model.api_keys import Permission
from gateway.model.deployments import Status
from gateway.model.errors import Code
from gateway.store import deployments, outbox
from gateway.store.database import transaction
from tests.integration.api.test_api_keys import a_key, asking_with
from tests.support.api_client import VAULT, Web
from tests.support.concluding import conclude
from tests.support.receivers import Hook, a_hole, a_hook, delivering, shorten_clocks


@pytest.fixture
async def web(shared_web: Web, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    shorten_clocks(monkeypatch)
    yield shared_web
    await shared_web.empty("alerts", "outbox_events")


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with a_hook() as one:
        yield one


async def write(web: Web, application_id: str, *keys: str, kind: EventKind = EventKind.FAILED) -> None:
    for key in keys:
        async with transaction(web.pool) as connection:
            content = {"detail": key, "deployment": None}
            await outbox.write_event(connection, Occurrence(application_id, None, key, kind, content))


async def an_alert(web: Web, hook: Hook, **how: Any) -> dict[str, Any]:
    made: dict[str, Any] = await web.mutate(
        "alert.create", name="hook", receiver="webhook", address=hook.url, allowPrivate=True, **how
    )
    return made


async def deliveries(web: Web, **which: str) -> list[tuple[str, str]]:
    return [(one["state"], one["title"]) for one in await web.query("alert.deliveries", **which)]


async def settled(web: Web, alert_id: str, **expected: object) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found: dict[str, Any] = await web.query("alert.one", alertId=alert_id)
        return found if all(found[name] == value for name, value in expected.items()) else None

    return await until(look, within=20)


async def test_a_program_is_told_by_signed_requests_that_a_stranger_cannot_make(web: Web, hook: Hook) -> None:
    application_id = await web.application("acme/web")
    made = await an_alert(web, hook, applicationId=application_id, events=["failed"])
    await write(web, application_id, "s1", kind=EventKind.SUCCEEDED)
    await write(web, application_id, "f1")
    async with delivering(web.pool, VAULT):
        headers, body = await hook.heard.get()
        await settled(web, made["alertId"], waiting=0)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = b64decode(made["secret"].removeprefix("whsec_"))
    assert headers["webhook-signature"] == "v1," + b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert b'"type":"application.failed"' in body
    assert await deliveries(web, alertId=made["alertId"]) == [("delivered", "a: deploy failed")]
    assert made["secret"] not in str(await web.query("alert.one", alertId=made["alertId"]))


async def test_a_receiver_that_fails_gets_everything_later_in_order_and_no_other_one_waits_for_it(web: Web) -> None:
    broken = [True]

    def answer() -> http.Response:
        return http.Response(status=500 if broken[0] else 204)

    async with a_hook(answer) as slow, a_hook() as well:
        application_id = await web.application("acme/web")
        first, second = await an_alert(web, slow), await an_alert(web, well)
        await write(web, application_id, "a", "b", "c")
        async with delivering(web.pool, VAULT):
            assert [(await well.told())["data"]["detail"] for _ in range(3)] == ["a", "b", "c"]
            failed = await slow.told()
            assert failed["data"]["detail"] == "a"
            broken[0] = False
            heard = [failed]
            while heard[-1]["data"]["detail"] != "c":
                heard.append(await slow.told())
            assert list(dict.fromkeys(one["data"]["detail"] for one in heard)) == ["a", "b", "c"]
            assert heard[1] == failed  # with the same id
            await settled(web, first["alertId"], waiting=0, failures=0, lastError=None)
        assert await deliveries(web, alertId=second["alertId"]) == [("delivered", "a: deploy failed")] * 3


@pytest.mark.parametrize("receiver", ["webhook", "apprise"])
async def test_receivers_that_never_answer_hold_nothing_that_another_one_needs(web: Web, receiver: str) -> None:
    applications = [await web.application(f"acme/web{number}") for number in range(3)]
    scheme = {"webhook": "http", "apprise": "json"}[receiver]
    async with a_hole() as hole, a_hook() as well:
        for number in range(50):
            address = f"{scheme}://127.0.0.1:{hole.port}/{number}" + ("?rto=600" if receiver == "apprise" else "")
            await web.mutate("alert.create", name="n", receiver=receiver, address=address, allowPrivate=True)
        for number, application_id in enumerate(applications):
            await write(web, application_id, f"{number}")
        address = well.url.replace("http", scheme)
        good = await web.mutate("alert.create", name="well", receiver=receiver, address=address, allowPrivate=True)
        async with delivering(web.pool, VAULT):
            await until(lambda: hole.swallowed(64), within=20)
            for number in range(20):
                await write(web, applications[number % 3], f"good-{number}")
            await settled(web, good["alertId"], waiting=0)
            # As long as none of the others was given up.
            assert await web.pool.fetchval("SELECT sum(failures) FROM alerts") == 0
    assert well.heard.qsize() == 20


async def test_a_receiver_that_asks_to_wait_is_left_alone_for_that_long(web: Web) -> None:
    async with a_hook(lambda: http.Response(status=429, headers={"retry-after": "3600"})) as hook:
        made = await an_alert(web, hook)
        await write(web, await web.application("acme/web"), "a")
        await write(web, await web.application("acme/other"), "b")
        async with delivering(web.pool, VAULT):
            await hook.told()
            found = await settled(web, made["alertId"], lastError="it answers 429")
        assert datetime.fromisoformat(found["pausedUntil"]) > datetime.now(UTC) + timedelta(minutes=50)
        assert found["waiting"] == 2


async def test_a_receiver_that_is_gone_turns_its_alert_off_and_what_was_given_up_can_be_delivered_again(
    web: Web,
) -> None:
    gone = [True]
    async with a_hook(lambda: http.Response(status=410 if gone[0] else 200)) as hook:
        made = await an_alert(web, hook)
        await write(web, await web.application("acme/web"), "a")
        async with delivering(web.pool, VAULT):
            await settled(web, made["alertId"], enabled=False)
            gone[0] = False
            await web.mutate("alert.update", alertId=made["alertId"], enabled=True)
            assert await web.mutate("alert.replay", alertId=made["alertId"]) == {"count": 1}
            assert (await hook.told())["id"] == (await hook.told())["id"]
            await settled(web, made["alertId"], waiting=0)
        assert await deliveries(web, state="failed") == []


async def test_what_happens_once_is_written_once_and_nothing_is_written_for_no_one(web: Web, hook: Hook) -> None:
    application_id = await web.application("acme/web")
    await write(web, application_id, "a")
    assert await web.count("outbox_events") == 0
    await an_alert(web, hook, events=["failed"])
    await write(web, application_id, "b", "b")
    await write(web, application_id, "c", kind=EventKind.STARTED)
    assert (await web.count("outbox_events"), await web.count("outbox_deliveries")) == (1, 1)


async def test_the_end_of_a_deployment_is_written_in_the_transaction_that_records_it(web: Web, hook: Hook) -> None:
    application_id = await web.application("acme/web")
    await an_alert(web, hook, events=["first", "recovered", "failed", "cancelled"])
    kinds = []
    for status in (Status.FAILED, Status.SUCCEEDED, Status.FAILED, Status.UNCHANGED, Status.SUCCEEDED):
        await web.mutate("application.redeploy", applicationId=application_id)
        await conclude(web, status, Code.UNHEALTHY if status is Status.FAILED else None)
    async with web.pool.acquire() as connection:
        rows = await connection.fetch("SELECT kinds, content FROM outbox_events ORDER BY created_at")
    kinds = [row["kinds"] for row in rows]
    assert kinds == [["failed"], ["succeeded", "recovered", "first"], ["failed"], ["unchanged", "recovered"]]
    assert rows[0]["content"]["reason"]["code"] == "unhealthy"
    assert rows[0]["content"]["application"]["name"] == "a"


async def test_what_is_overtaken_while_it_waits_is_told_to_have_ended(web: Web, hook: Hook) -> None:
    application_id = await web.application("acme/web")
    made = await an_alert(web, hook, events=["waiting", "cancelled"])
    await web.mutate("application.deploy", applicationId=application_id)
    (row,) = await web.query("deployment.all", applicationId=application_id)
    async with transaction(web.pool) as connection:
        deployment = await deployments.select_deployment(connection, row["deploymentId"])
        await outbox.write_event(connection, of_deployment(deployment, EventKind.WAITING, None))
    await web.mutate("deployment.cancel", deploymentId=row["deploymentId"])
    async with delivering(web.pool, VAULT):
        assert [(await hook.told())["type"] for _ in range(2)] == ["deployment.waiting", "deployment.cancelled"]
        await settled(web, made["alertId"], waiting=0)


async def test_the_addresses_of_the_setting_are_told_until_they_take_it(web: Web, hook: Hook) -> None:
    application_id = await web.application("acme/web")
    urls = {"GATEWAY_ALERT_URLS": f"{hook.url.replace('http', 'json')}, json://127.0.0.1:1/"}
    async with delivering(web.pool, VAULT, **urls):
        await until(lambda: recorded(web), within=20)
        await write(web, application_id, "a")
        assert (await hook.heard.get())[1].startswith(b"{")
        reached, away = sorted(await web.query("alert.all"), key=lambda one: str(one["name"]))
        assert (reached["target"], reached["fromSetting"]) == ("GATEWAY_ALERT_URLS", True)
        await settled(web, reached["alertId"], waiting=0)
        await settled(web, away["alertId"], waiting=1)
    status, _ = await web.post("/api/alert.remove", {"alertId": away["alertId"]})
    assert status == 409


async def recorded(web: Web) -> bool | None:
    return True if await web.count("alerts") == 2 else None


async def test_nothing_is_sent_in_quiet_hours(web: Web, hook: Hook) -> None:
    made = await an_alert(web, hook, quietHours=[{"zone": "Pacific/Auckland"}])
    await write(web, await web.application("acme/web"), "a")

    async def held() -> bool:
        found = await web.query("alert.deliveries", alertId=made["alertId"])
        return bool(found[0]["nextAttemptAt"] > found[0]["queuedAt"][:4] + "~") or found[0]["attempts"] == 0

    async with delivering(web.pool, VAULT):
        await until(held, within=10)
    assert hook.heard.empty()


@pytest.mark.parametrize(
    "how",
    [
        {"receiver": "apprise", "address": "json://10.0.0.1", "applicationId": "its own"},
        {"receiver": "webhook", "address": "http://10.0.0.1/x", "allowPrivate": True, "applicationId": "its own"},
        {"receiver": "webhook", "address": "https://hooks.example.com/x"},
    ],
)
async def test_a_restricted_key_sends_nothing_into_private_networks_and_hears_of_no_other_application(
    web: Web, how: dict[str, Any]
) -> None:
    application_id = await web.application("acme/web")
    key, _ = await a_key(web, application_id, permission=Permission.ADMIN)
    own = {**how, "applicationId": application_id} if "applicationId" in how else how
    async with asking_with(web, key):
        status, answer = await web.post("/api/alert.create", {"name": "n", **own})
    assert status == 403, answer


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("https://169.254.169.254/latest", "link-local"),
        ("https://[::ffff:169.254.169.254]/", "link-local"),
        ("https://10.0.0.1/", "private"),
        ("https://localhost/", "private"),
        ("http://example.com/", "https://"),
        ("https://user:secret@example.com/", "login"),
        ("gopher://example.com/", "not a URL"),
    ],
)
async def test_an_address_that_nothing_may_be_sent_to_is_refused(web: Web, address: str, why: str) -> None:
    status, answer = await web.post("/api/alert.create", {"name": "n", "receiver": "webhook", "address": address})
    assert status == 400
    assert why in answer["message"]
    assert "secret@" not in str(answer)


async def test_a_name_that_leads_to_a_private_address_is_refused_when_it_is_resolved(
    web: Web, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await web.mutate("alert.create", name="n", receiver="webhook", address="https://rebound.example/")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 443))])
    tried = await web.mutate("alert.test", alertId=made["alertId"])
    assert tried["delivered"] is False
    assert "private network" in tried["error"]
