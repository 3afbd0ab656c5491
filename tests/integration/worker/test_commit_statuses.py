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
from gateway.store import outbox
from gateway.store.database import transaction
from gateway.worker import outbox as worker
from tests.integration.api.test_api_keys import a_key, asking_with
from tests.integration.worker.test_outbox import settled
from tests.support.api_client import VAULT, Web
from tests.support.code_hosts import TOKEN, CodeHost, a_code_host
from tests.support.receivers import delivering

SHA = "ab" * 20


@pytest.fixture
async def web(shared_web: Web, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    monkeypatch.setattr(worker, "_SHORTEST", 0.1)
    monkeypatch.setattr(worker, "_FIRST_PAUSE", 0.2)
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
    """Each request is carried out, and then answered with 500: nobody knows whether it was."""
    lost = []

    async def lose() -> http.Response | None:
        kind, what, body = host.written[-1]
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
