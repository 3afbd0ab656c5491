"""The hook is told the facts, signed; only a clear answer of its own is a verdict."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from aiohttp import web
from pydantic import ValidationError

from gateway.config import Settings
from gateway.gates import external
from gateway.gates.external import Rule, parse_answer
from gateway.gates.gate import Sources
from gateway.model.errors import Code, Postponed
from gateway.model.gates import Decision, GateSetting, Level, Verdict
from gateway.model.reference import Digest
from gateway.registry.client import RegistryClient
from tests.support.api_client import VAULT, Web
from tests.support.candidates import a_candidate
from tests.support.doc_blocks import blocks
from tests.support.token_registries import served

SECRET = "s" * 43
NEW, OLD = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
SETTINGS = Settings.from_environ({"HOME": "/"})


@dataclass
class Hook:
    """Answers each request alike, and keeps what it got."""

    answer: Callable[[web.Request], Any]
    requests: list[tuple[web.Request, bytes]] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        answer = self.answer(request)
        return cast(web.StreamResponse, await answer if asyncio.iscoroutine(answer) else answer)


@asynccontextmanager
async def a_hook(answer: Callable[[web.Request], Any]) -> AsyncIterator[tuple[Hook, str]]:
    hook = Hook(answer)
    async with served(hook.serve) as address:
        yield hook, f"http://{address}/deploy"


def saying(text: str | bytes, status: int = 200) -> Callable[[web.Request], web.Response]:
    return lambda _: web.Response(body=text, status=status, content_type="application/json")


async def asked(web_: Web, url: str, *, secret: str | None = SECRET, **rule: Any) -> Decision:
    """Ask the gate as a rollout does. Raises Postponed."""
    parsed = Rule.model_validate({"url": url, **rule})
    sources = Sources(web_.pool, VAULT, cast(RegistryClient, None), SETTINGS)
    setting = GateSetting(
        "g", Level.APPLICATION, "app", "external", "change board", rule, True, False, datetime.now(UTC), secret
    )
    candidate = a_candidate(NEW, serving=OLD, asked_by="ci")
    facts = await external.gather(sources, setting, parsed, candidate)
    return external.decide(parsed, facts, candidate, datetime.now(UTC))


async def test_the_hook_is_told_the_facts_signed_with_their_time(web: Web) -> None:
    async with a_hook(saying('{"verdict": "pass", "message": "ticket 7", "evidence": {"ticket": 7}}')) as (hook, url):
        decision = await asked(web, url)
        await asked(web, url)
    assert (decision.verdict, decision.message) == (Verdict.PASSED, "the hook says: ticket 7")
    assert decision.evidence == {"ticket": 7}
    assert decision.true_until is None
    (request, body), (again, _) = hook.requests
    sent, _, made = request.headers["X-Gateway-Signature"].partition(",v1=")
    seconds = sent.removeprefix("t=")
    assert made == hmac.new(SECRET.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert all(_genuine(dict(request.headers), body, secret) is (secret == SECRET) for secret in (SECRET, "other"))
    assert not _genuine(dict(request.headers), body + b" ", SECRET)
    assert abs(int(seconds) - datetime.now(UTC).timestamp()) < 100
    assert request.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]
    assert json.loads(body) == {
        "gate": "change board",
        "image": f"docker.io/acme/web@{NEW}",
        "repository": "docker.io/acme/web",
        "tag": "v1",
        "digest": NEW,
        "platform": "linux/amd64",
        "servingDigest": OLD,
        "applicationId": "app",
        "application": "app",
        "environment": None,
        "project": None,
        "deploymentId": "d1",
        "kind": "deploy",
        "requestedBy": "ci",
        "requestedAt": "2026-12-01T00:00:00+00:00",
    }


def _genuine(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """Check a request as docs/gates.md says."""
    (block,) = [one for one in blocks() if one.page == "docs/gates.md" and one.language == "python"]
    names = {"headers": headers, "body": body, "secret": secret, "hmac": hmac, "hashlib": hashlib, "time": time}
    exec(block.text, names)  # noqa: S102 - the page's own lines
    return bool(names["genuine"])


async def test_the_hook_may_refuse_or_put_off(web: Web) -> None:
    async with a_hook(saying('{"verdict": "refuse", "message": "frozen"}')) as (_, url):
        refused = await asked(web, url)
    assert (refused.verdict, refused.code, refused.message) == (
        Verdict.REFUSED,
        Code.GATE_REFUSED,
        "the hook says: frozen",
    )
    async with a_hook(saying('{"verdict": "later", "retryAfter": 90}')) as (_, url):
        later = await asked(web, url)
    assert later.verdict is Verdict.UNKNOWN
    assert later.ask_again_at is not None
    assert timedelta(seconds=60) < later.ask_again_at - datetime.now(UTC) < timedelta(seconds=91)


def _redirects(_: web.Request) -> web.Response:
    return web.Response(status=307, headers={"Location": "/elsewhere"})


async def _hangs(request: web.Request) -> web.Response:
    """Answer nothing until the gateway has given up."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)
    return web.Response()


def _compressed(_: web.Request) -> web.Response:
    response = web.json_response({"verdict": "pass"})
    response.enable_compression(web.ContentCoding.gzip)
    return response


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (saying('{"verdict": "pass"}', 500), "status 500"),
        (saying('{"verdict": "refuse"}', 404), "status 404"),
        (saying('{"verdict": "pass"}', 300), "status 300"),
        (_redirects, "status 307"),
        (_hangs, "no answer in time"),
        (_compressed, "is not like"),
        (saying(""), "is not like"),
        (saying("pass"), "is not like"),
        (saying("[]"), "is not like"),
        (saying('{"verdict": "passed"}'), "is not like"),
        (saying('{"verdict": true}'), "is not like"),
        (saying('{"verdict": "later", "retryAfter": -1}'), "is not like"),
        (saying('{"verdict": "later", "retryAfter": NaN}'), "is not like"),
        (saying('{"verdict": "pass", "message": 1}'), "is not like"),
        (saying(b'{"verdict": "pass", "x": "' + b"x" * 70_000 + b'"}'), "more than 64 KB"),
        (saying(b'{"a":' * 10_000), "is not like"),
    ],
)
async def test_whatever_is_no_clear_answer_leaves_the_verdict_unknown(
    web: Web, answer: Callable[[web.Request], Any], why: str
) -> None:
    async with a_hook(answer) as (hook, url):
        with pytest.raises(Postponed, match=why):
            await asked(web, url, timeout=1)
    assert len(hook.requests) == 1


async def test_a_hook_that_nobody_answers_and_a_gate_without_a_secret_are_unknown(web: Web) -> None:
    with pytest.raises(Postponed, match=r"127\.0\.0\.1 cannot be asked"):
        await asked(web, "http://127.0.0.1:9/")
    with pytest.raises(Postponed, match="no secret"):
        await asked(web, "http://127.0.0.1:9/", secret=None)


def test_what_a_hook_says_is_bounded_and_acts_on_no_terminal() -> None:
    nested: Any = "deep"
    for _ in range(20):
        nested = {"\x1b[2J": [nested]}
    said = {"verdict": "pass", "message": "\x1b[2J\u202e" + "x" * 5000, "evidence": nested}
    answer = parse_answer(json.dumps(said).encode())
    assert answer.message.isprintable()
    assert len(answer.message) < 1100
    shown = json.dumps(answer.evidence, ensure_ascii=False)
    assert shown.isprintable()
    assert "deep" not in shown
    large = parse_answer(json.dumps({**said, "evidence": {"x": "x" * 20_000}}).encode())
    assert large.evidence == {"omitted": "it is larger than 16 KB"}
    assert large.verdict == "pass"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"url": "ftp://a/"}, "must be like https://checks"),
        ({"url": "https://"}, "must be like https://checks"),
        ({"url": "https://user:pw@a.example/"}, "no login"),
        ({"url": "http://a.example/"}, "or set allowHttp"),
        ({"url": "http://127.0.0.1.example/"}, "or set allowHttp"),
        ({"url": "https://169.254.169.254/latest"}, "link-local"),
        ({"url": "https://a.example/", "caCertificate": "x"}, "PEM"),
        ({"url": "https://a.example/", "allow": True}, "Extra inputs"),
        ({"url": "https://a.example/", "timeout": 0}, "greater than"),
    ],
)
def test_a_rule_that_would_be_unsafe_is_refused_with_what_to_write(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Rule.model_validate(rule)


def test_http_is_for_this_host_or_where_the_rule_says_so() -> None:
    for url in ("http://localhost:1/", "http://127.0.0.1/", "http://[::1]:80/x"):
        assert Rule.model_validate({"url": url}).url == url
    assert Rule.model_validate({"url": "http://checks.internal/", "allowHttp": True}).allow_http
