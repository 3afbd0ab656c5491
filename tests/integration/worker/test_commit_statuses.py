"""The commit from which an image was built shows what became of it: each state once, in order, and at its own host."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web as http
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import RSAKey

from gateway.model.alerts import EventKind, Occurrence
from gateway.model.api_keys import Permission
from gateway.model.commits import REVISION, SOURCE
from gateway.model.deployments import Status
from gateway.model.errors import Code
from gateway.store import outbox
from gateway.store.database import transaction
from tests.integration.api.test_api_keys import a_key, asking_with
from tests.integration.worker.test_outbox import settled
from tests.support.api_client import VAULT, Web
from tests.support.code_hosts import TOKEN, CodeHost, a_code_host
from tests.support.concluding import conclude
from tests.support.receivers import delivering, shorten_clocks

SHA = "ab" * 20


@pytest.fixture
async def web(shared_web: Web, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    shorten_clocks(monkeypatch)
    yield shared_web
    await shared_web.empty("alerts", "outbox_events")


@pytest.fixture
async def host() -> AsyncIterator[CodeHost]:
    async with a_code_host() as one:
        yield one
        assert one.refused == []


async def tell(
    web: Web, application_id: str, *kinds: EventKind, source: str, deployment: str = "11112222-3333", sha: str = SHA
) -> None:
    """Write down events of one deployment, whose image has these labels."""
    for kind in kinds:
        content = {
            "deployment": {
                "deploymentId": deployment,
                "kind": "deploy",
                "image": "ghcr.io/acme/web:1",
                "digest": "sha256:" + "ab" * 32,
            },
            "reason": {"code": "unhealthy", "message": "x" * 300, "remedy": "r"} if kind is EventKind.FAILED else None,
        }
        key = f"deployment:{deployment}:{kind}"
        async with transaction(web.pool) as connection:
            await outbox.write_event(connection, Occurrence(application_id, deployment, key, kind, content))
            await connection.execute(
                "UPDATE outbox_events SET origin = $2 WHERE key = $1", key, {SOURCE: source, REVISION: sha}
            )


async def an_alert(web: Web, host: CodeHost, receiver: str, **how: Any) -> str:
    login = {} if "appId" in how else {"token": TOKEN}
    made = await web.mutate(
        "alert.create", name="source", receiver=receiver, address=host.url, allowPrivate=True, **login, **how
    )
    assert TOKEN not in str(made)
    return str(made["alertId"])


async def delivered(web: Web, alert_id: str) -> list[str]:
    """Wait until all is delivered, and return what there is to say about it."""
    async with delivering(web.pool, VAULT):
        await settled(web, alert_id, waiting=0)
    found = await web.query("alert.deliveries", alertId=alert_id)
    assert {one["state"] for one in found} == {"delivered"}, found
    return [one["error"] for one in found if one["error"]]


@pytest.mark.parametrize(
    ("receiver", "states"),
    [
        ("github", {"deployment_status": ["in_progress", "success"], "commit_status": ["pending", "success"]}),
        ("gitlab", {"deployment": ["running", "success"], "commit_status": ["running", "success"]}),
        ("gitea", {"commit_status": ["pending", "success"]}),
    ],
)
async def test_a_commit_shows_each_state_of_its_deployment_once(
    web: Web, host: CodeHost, receiver: str, states: dict[str, list[str]]
) -> None:
    application_id = await web.application("acme/web")
    await web.mutate("domain.create", applicationId=application_id, host="shop.example.com", https=True)
    alert_id = await an_alert(web, host, receiver)
    await tell(web, application_id, EventKind.STARTED, EventKind.SUCCEEDED, source=f"{host.url}/acme/web.git")
    assert await delivered(web, alert_id) == []
    assert {kind: host.states(kind) for kind in states} == states
    urls = {body.get("environment_url") or body.get("external_url") for _, _, body in host.written} - {None}
    assert urls == ({"https://shop.example.com"} if receiver != "gitea" else set())


@pytest.mark.parametrize("receiver", ["github", "gitlab", "gitea"])
async def test_a_state_whose_answer_was_lost_is_not_shown_twice(web: Web, host: CodeHost, receiver: str) -> None:
    """Each request is carried out, and then answered with 500: nobody knows whether it was.

    Others show more on the same commit meanwhile than a page has.
    """
    lost = []

    async def lose() -> http.Response | None:
        kind, what, body = host.written[-1]
        for number in range(120):
            host.add_status(
                f"acme/web@{SHA}", {"state": "pending", "context": f"other-{number}", "name": f"other-{number}"}
            )
        if (kind, what, str(body)) in lost:
            return None
        lost.append((kind, what, str(body)))
        return http.Response(status=500)

    host.after_write = lose
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, receiver)
    await tell(web, application_id, EventKind.STARTED, EventKind.FAILED, source=f"{host.url}/acme/web")
    await delivered(web, alert_id)
    assert len(host.written) == len(lost)
    assert len(host.states("commit_status")) == 2


async def test_a_refusal_is_an_answer_and_nothing_is_looked_up_after_it(web: Web, host: CodeHost) -> None:
    asked: list[tuple[str, str]] = []

    async def disturb(request: http.Request) -> http.Response | None:
        asked.append((request.method, request.path))
        if len(asked) in {1, 3, 5}:
            return http.Response(status=429, headers={"Retry-After": "0"})
        return None

    host.disturb = disturb
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, "github")
    await tell(web, application_id, EventKind.STARTED, source=f"{host.url}/acme/web")
    await delivered(web, alert_id)
    assert [method for method, _ in asked] == ["POST"] * 6


async def test_a_gateway_that_lost_its_lease_sends_nothing_more(web: Web, host: CodeHost) -> None:
    lost: list[str] = []

    async def lose() -> None:
        if not lost:
            lost.append(host.url)
            await web.pool.execute("UPDATE outbox_deliveries SET epoch = epoch + 1, lease_until = now()")

    host.after_write = lose
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, "github")
    await tell(web, application_id, EventKind.STARTED, source=f"{host.url}/acme/web")
    await delivered(web, alert_id)
    assert [kind for kind, _, _ in host.written] == ["deployment", "deployment_status", "commit_status"]


async def test_a_deployment_that_waits_and_then_starts_is_one_at_its_host(web: Web, host: CodeHost) -> None:
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, "github")
    await tell(web, application_id, EventKind.WAITING, EventKind.STARTED, source=f"{host.url}/acme/web")
    await delivered(web, alert_id)
    assert len(host.deployments) == 1
    assert host.states("deployment_status") == ["queued", "in_progress"]


async def test_without_labels_the_commit_is_that_which_the_push_or_the_call_names(web: Web, host: CodeHost) -> None:
    application_id = await web.application("acme/origin")
    alert_id = await an_alert(web, host, "gitea", events=["failed"])
    webhook = await web.endpoint("generic", "s")
    for revision in ("1" * 40, "2" * 40):  # the second push joins the first one's deployment
        body = {"image": "acme/origin", "source": f"{host.url}/acme/web", "revision": revision, "id": revision}
        assert (await web.post(webhook, body, Authorization="Bearer s"))[0] == 202
    await conclude(web, Status.FAILED, Code.UNHEALTHY)
    call = {"applicationId": application_id, "revision": "3" * 40}
    status, answer = await web.post("/api/application.redeploy", call)
    assert (status, "send both source" in answer["message"]) == (400, True)
    await web.mutate("application.redeploy", **call, source=f"{host.url}/acme/web.git")
    await conclude(web, Status.FAILED, Code.UNHEALTHY)
    assert await delivered(web, alert_id) == []
    assert [what for kind, what, _ in host.written if kind == "commit_status"] == ["2" * 40, "3" * 40]


async def test_the_token_goes_to_no_host_and_no_repository_but_those_of_the_alert(web: Web, host: CodeHost) -> None:
    application_id = await web.application("acme/web")
    asked = []

    async def note(request: http.Request) -> None:
        asked.append(request.path)

    host.disturb = note
    async with a_code_host() as other:
        other.disturb = note
        alert_id = await an_alert(web, host, "github", repositories=["acme/*"])
        for number, source in enumerate((f"{other.url}/acme/web", f"{host.url}/evil/web", f"{host.url}/acme/../x", "")):
            await tell(web, application_id, EventKind.SUCCEEDED, source=source, deployment=f"d{number}")
        said = await delivered(web, alert_id)
    assert len(said) == 4
    assert asked == []
    assert any(other.host in one for one in said)


async def test_a_token_is_sent_anew_with_another_host(web: Web, host: CodeHost) -> None:
    alert_id = await an_alert(web, host, "gitea")
    status, answer = await web.post("/api/alert.update", {"alertId": alert_id, "address": "https://evil.example.com"})
    assert (status, "former host" in answer["message"]) == (400, True)
    await web.mutate("alert.update", alertId=alert_id, name="renamed", repositories=["acme/web"])
    assert (await web.query("alert.one", alertId=alert_id))["repositories"] == ["acme/web"]


async def test_an_app_gets_a_token_for_one_repository_with_the_least_rights(web: Web, host: CodeHost) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    host.app_key, host.tokens = RSAKey.import_key(pem), set()
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, "github", appId="4711", privateKey=pem, artifactRecord=True)
    assert (await web.mutate("alert.test", alertId=alert_id))["delivered"] is True
    await tell(web, application_id, EventKind.SUCCEEDED, source=f"git@{host.host.partition(':')[0]}:acme/web.git")
    await tell(web, application_id, EventKind.SUCCEEDED, source=f"{host.url}/acme/web", deployment="d2")
    await delivered(web, alert_id)
    assert host.permissions == {"deployments": "write", "statuses": "write", "artifact_metadata": "write"}
    assert len(host.tokens) == 1
    assert host.states("record") == ["deployed"]


async def test_a_restricted_key_does_not_send_a_token_elsewhere_than_whoever_set_it(web: Web, host: CodeHost) -> None:
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, "gitea", applicationId=application_id, repositories=["acme/web"])
    key, _ = await a_key(web, application_id, permission=Permission.ADMIN)
    async with asking_with(web, key):
        status, answer = await web.post("/api/alert.update", {"alertId": alert_id, "repositories": []})
        assert status == 403, answer
        await web.mutate("alert.update", alertId=alert_id, enabled=False)


async def test_what_a_host_says_is_shown_harmless(web: Web, host: CodeHost) -> None:
    async def disturb(_request: http.Request) -> http.Response:
        return http.json_response({"message": "no\x00\x1b[2J\ud800"}, status=422)

    host.disturb = disturb
    application_id = await web.application("acme/web")
    alert_id = await an_alert(web, host, "gitea")
    await tell(web, application_id, EventKind.SUCCEEDED, source=f"{host.url}/acme/web")
    async with delivering(web.pool, VAULT):
        found = await settled(web, alert_id, waiting=0)
    assert "\x1b" not in found["lastError"]
    assert (await web.query("alert.deliveries", alertId=alert_id))[0]["state"] == "failed"


async def test_a_wrong_token_is_said_and_pauses_the_host_alone(web: Web, host: CodeHost) -> None:
    alert_id = await an_alert(web, host, "gitlab")
    host.tokens = set()
    tried = await web.mutate("alert.test", alertId=alert_id)
    assert (tried["delivered"], tried["statusCode"]) == (False, 401)
