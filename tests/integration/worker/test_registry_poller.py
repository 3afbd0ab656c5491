"""Tests that polling finds missed pushes, respects rate limits, and ingests them like webhooks."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest
from aiohttp import web as http
from aiohttp.test_utils import TestServer

from gateway.model.reference import Reference
from gateway.model.registries import ANONYMOUS
from gateway.registry import client as registry_client
from gateway.registry.rate_limit import cooldown
from gateway.worker.registry_poller import RegistryPoller, next_page
from tests.support.api_client import VAULT, Web
from tests.support.real_parts import Pushes

A, B = ("sha256:" + letter * 64 for letter in "ab")
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Registry:
    """Answers as Distribution does, and remembers what it was asked."""

    address: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    limited: bool = False

    async def manifest(self, request: http.Request) -> http.Response:
        self.asked.append(f"{request.method} {request.match_info['tag']}")
        digest = self.tags.get(request.match_info["tag"])
        status = 429 if self.limited else 404 if digest is None else 200
        if digest is not None and request.headers.get("If-None-Match") == f'"{digest}"':
            status = 304
        self.answers.append(status)
        headers = {"Content-Type": INDEX, "Docker-Content-Digest": digest or "", "ETag": f'"{digest}"'}
        return http.Response(status=status, headers=headers)

    async def list(self, request: http.Request) -> http.Response:
        after, names = request.query.get("last", ""), sorted(self.tags)
        page = [name for name in names if name > after][:2]
        more = page and page[-1] != names[-1]
        headers = {"Link": f'</v2/x/tags/list?last={page[-1]}&n=2>; rel="next"'} if more else {}
        self.asked.append("GET tags")
        return http.json_response({"name": "x", "tags": page}, headers=headers)


@pytest.fixture
async def answering() -> AsyncIterator[Registry]:
    registry, application = Registry(), http.Application()
    application.router.add_route("HEAD", "/v2/acme/web/manifests/{tag}", registry.manifest)
    application.router.add_get("/v2/acme/web/tags/list", registry.list)
    async with TestServer(application) as server:
        registry.address = f"127.0.0.1:{server.port}"
        yield registry


class Looking:
    """One application that is looked after."""

    def __init__(self, web: Web, registry: Registry, client: registry_client.RegistryClient) -> None:
        self.web, self.registry, self.application_id = web, registry, ""
        self.poller = RegistryPoller(web.pool, VAULT, client, {})

    async def deployed(self, tag: str, digest: str) -> None:
        """Make the application, running that."""
        image = f"{self.registry.address}/acme/web:{tag}"
        made = await self.web.mutate("application.create", name="web", dockerImage=image)
        self.application_id = made["applicationId"]
        await self.web.mutate("subscription.reconcile", applicationId=self.application_id, seconds=60)
        await self.ran(tag, digest)

    async def ran(self, tag: str, digest: str, kind: str = "deploy") -> None:
        """Let a deployment of that have ended."""
        await self._execute(
            """
            INSERT INTO deployments (application_id, kind, forced, title, reference, digest, status, finished_at)
            VALUES ($1, $2, false, '', $3, $4, 'succeeded', now())
            """,
            self.application_id, kind, f"{self.registry.address}/acme/web:{tag}", digest,
        )  # fmt: skip

    async def look(self) -> list[str]:
        """Look at all that is due by now; return the images that are queued then, and let them have ended."""
        self.poller._merged_at = float("-inf")  # noqa: SLF001 - what is new is noticed at once
        await self.poller.poll_once()
        for _ in range(2):
            await self._execute("UPDATE looks SET next_at = now()")
            await self.poller.poll_once()
        rows = await self.web.query("deployment.all", applicationId=self.application_id)
        queued = [row for row in rows if row["state"] == "queued"]
        for row in queued:
            await self._execute(
                "UPDATE deployments SET status = 'succeeded', digest = $2, finished_at = now()"
                " WHERE deployment_id = $1",
                row["deploymentId"],
                self.registry.tags[row["image"].rpartition(":")[2]],
            )
        return [row["image"].rpartition(":")[2] for row in queued]

    async def _execute(self, statement: str, *given: object) -> None:
        async with self.web.pool.acquire() as connection:
            await connection.execute(statement, *given)


@pytest.fixture
async def looking(web: Web, answering: Registry) -> AsyncIterator[Looking]:
    async with web.pool.acquire() as connection:
        await connection.execute("TRUNCATE looks")
    async with registry_client.connect() as client:
        yield Looking(web, answering, client)


async def test_a_moved_tag_is_found_once_and_an_unmoved_one_costs_a_conditional_head(looking: Looking) -> None:
    registry = looking.registry
    registry.tags["latest"] = A
    await looking.deployed("latest", A)
    assert await looking.look() == []
    registry.tags["latest"] = B
    assert await looking.look() == ["latest"]
    assert await looking.look() == []
    assert {asked.split()[0] for asked in registry.asked} == {"HEAD"}
    assert registry.answers.count(304) >= 2
    found = await looking.web.query("delivery.all", source="reconcile")
    assert [one["verdict"] for one in found] == ["deployed"]


async def test_a_push_missed_before_the_first_poll_is_found(looking: Looking) -> None:
    looking.registry.tags["latest"] = B
    await looking.deployed("latest", A)
    assert await looking.look() == ["latest"]


async def test_a_move_back_to_an_older_image_is_found(looking: Looking) -> None:
    looking.registry.tags["latest"] = A
    await looking.deployed("latest", A)
    await looking.look()
    looking.registry.tags["latest"] = B
    assert await looking.look() == ["latest"]
    looking.registry.tags["latest"] = A
    assert await looking.look() == ["latest"]


async def test_a_push_reported_by_a_webhook_is_not_ingested_again(looking: Looking) -> None:
    looking.registry.tags["latest"] = A
    await looking.deployed("latest", A)
    await looking.look()
    looking.registry.tags["latest"] = B
    await looking.ran("latest", B)
    assert await looking.look() == []


async def test_polling_does_not_undo_a_rollback(looking: Looking) -> None:
    looking.registry.tags["latest"] = A
    await looking.deployed("latest", A)
    await looking.look()
    looking.registry.tags["latest"] = B
    await looking.ran("latest", B)
    await looking.ran("latest", A, "redeploy")
    assert await looking.look() == []


async def test_a_newer_version_is_found_on_any_page_of_tags(looking: Looking) -> None:
    looking.registry.tags = dict.fromkeys(["1.0.0", "1.1.0", "1.2.0", "1.10.0", "2.0.0", "latest"], A)
    await looking.deployed("1.0.0", A)
    given = {"applicationId": looking.application_id, "policy": "semver", "pattern": "^1"}
    await looking.web.mutate("subscription.create", **given)
    assert await looking.look() == ["1.10.0"]
    assert await looking.look() == []


async def test_a_registry_that_limits_requests_is_left_alone(looking: Looking) -> None:
    looking.registry.tags["latest"] = A
    looking.registry.limited = True
    await looking.deployed("latest", A)
    assert await looking.look() == []
    assert len(looking.registry.asked) == 1


async def test_nothing_is_polled_unless_configured(looking: Looking) -> None:
    looking.registry.tags["latest"] = A
    await looking.deployed("latest", A)
    await looking.web.mutate("subscription.reconcile", applicationId=looking.application_id, seconds=None)
    await looking.look()
    assert looking.registry.asked == []
    looking.poller = RegistryPoller(looking.web.pool, VAULT, looking.poller._registry, {"*": 60})  # noqa: SLF001
    await looking.look()
    assert len(looking.registry.asked) > 0
    await looking.web.mutate("subscription.reconcile", applicationId=looking.application_id, seconds=0)
    looking.registry.asked.clear()
    await looking.look()
    assert looking.registry.asked == []


async def test_a_real_registry_answers_304_for_an_unmoved_tag(pushes: Pushes) -> None:
    digest = await pushes("one")
    await pushes("two", "other")
    reference = Reference.parse(pushes.name())
    async with registry_client.connect() as client:
        first = await client.head_manifest(reference, ANONYMOUS, etag=None)
        assert (first.status, first.headers["Docker-Content-Digest"]) == (200, digest)
        assert (await client.head_manifest(reference, ANONYMOUS, etag=first.headers["ETag"])).status == 304
        listed = await client.list_tags(reference, ANONYMOUS)
        assert sorted(orjson.loads(listed.body)["tags"]) == ["latest", "other"]


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (200, {}, 0),
        (200, {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, 0),
        (200, {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "50;w=21600"}, 2160),
        (200, {"ratelimit-limit": "many", "ratelimit-remaining": "few"}, 0),
        (429, {"Retry-After": "17"}, 17),
        (429, {"Retry-After": "in a while"}, 300),
        (503, {}, 300),
        (404, {}, 0),
    ],
)
def test_a_registry_rests_for_its_retry_after(status: int, headers: dict[str, str], seconds: float) -> None:
    assert cooldown(status, headers) == seconds


def test_tag_pages_are_requested_only_from_the_registry() -> None:
    assert next_page('<https://evil.example.com/v2/x/tags/list?last=b&n=2>; rel="next"') == "b"
    assert next_page('<https://[/v2/x/tags/list?last=b>; rel="next"') == ""
    assert next_page("") == ""
