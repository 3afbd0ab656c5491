"""The HTTP application on a real PostgreSQL. Nothing rolls out what it queues."""

import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.admin.context import Context
from gateway.api.connections import Limits, Runner
from gateway.api.server import build
from gateway.background import BackgroundTasks
from gateway.config import Settings
from gateway.dashboard.server import add_dashboard
from gateway.docker.engine.client import EngineIdentity
from gateway.model.reference import Digest
from gateway.registry import client as registry_client
from gateway.store import api_keys, endpoints
from gateway.store.database import Pool
from gateway.store.encryption import Vault
from tests.support.databases import empty
from tests.support.distribution_hooks import envelope
from tests.support.response_validation import ResponseValidator

VAULT = Vault(b"k" * 32)


@dataclass
class UnreachableEngine:
    engine: Any = None
    address: str = "unix:///nowhere"
    server_id: str | None = None
    identity: EngineIdentity | None = None
    error: str | None = "nobody answers"
    running: int = 0
    routes: bool = False

    async def routed(self, _networks: Sequence[str]) -> bool:
        return self.routes


@dataclass
class StubRollouts:
    """Stands in for the supervisor, and counts how often it was woken."""

    engines: list[UnreachableEngine] = field(default_factory=lambda: [UnreachableEngine()])
    woken: int = 0
    background_tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    acts: list[Callable[[], None]] = field(default_factory=list)

    def wake(self) -> None:
        self.woken += 1
        for act in self.acts:
            act()

    def when_woken(self, act: Callable[[], None], /) -> None:
        self.acts.append(act)


@dataclass
class Web:
    """A client with a key."""

    client: Any
    pool: Pool
    key: str
    rollouts: StubRollouts
    registry: str = ""
    validator: ResponseValidator = field(default_factory=ResponseValidator)

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = {"Content-Type": "application/json", "x-api-key": self.key, **headers}
        async with self.client.post(path, data=io.BytesIO(raw), headers=sent) as answer:
            return answer.status, _json(await answer.read())

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        async with self.client.get(path, params=query, headers={"x-api-key": self.key}) as answer:
            return answer.status, _json(await answer.read())

    async def mutate(self, procedure: str, **given: object) -> Any:
        status, answer = await self.post(f"/api/trpc/{procedure}", given)
        assert status == 200, answer
        return answer["result"]["data"]["json"]

    async def query(self, procedure: str, **given: object) -> Any:
        status, answer = await self.get(f"/api/trpc/{procedure}", input=orjson.dumps({"json": given}).decode())
        assert status == 200, answer
        return answer["result"]["data"]["json"]

    async def endpoint(self, source: str, secret: str, host: str | None = None, **more: Any) -> str:
        async with self.pool.acquire() as connection:
            _, token = await endpoints.insert_endpoint(
                connection,
                VAULT,
                source=source,
                name="",
                secret=secret,
                host=host,
                **{"aliases": [], "settings": {}, **more},
            )
        return f"/webhooks/{source}/{token}"

    async def push(self, *names: str) -> tuple[int, Any]:
        """Report a push of these tags, in one envelope of a Distribution registry."""
        if not self.registry:
            self.registry = await self.endpoint("distribution", "s")
        digest = Digest("sha256:" + "ab" * 32)
        events = [orjson.loads(envelope(name, digest))["events"][0] for name in names]
        return await self.post(self.registry, {"events": events}, Authorization="Bearer s")

    async def application(self, image: str) -> str:
        """Create an application of an image, and return its id."""
        return str((await self.mutate("application.create", name="a", dockerImage=image))["applicationId"])

    async def empty(self, *tables: str) -> None:
        async with self.pool.acquire() as connection:
            for table in tables:
                await connection.execute(f"DELETE FROM {table}")

    async def count(self, table: str) -> int:
        async with self.pool.acquire() as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


def _json(body: bytes) -> Any:
    return orjson.loads(body) if body.startswith((b"{", b"[", b'"', b"t")) else body


class _Server(TestServer):
    """Behind the connections that the gateway has."""

    async def _make_runner(self, **options: Any) -> Runner:
        # As in a gateway: a handler goes on when its client leaves.
        return Runner(self.app, Limits(), **{**options, "handler_cancellation": False})


@pytest.fixture
async def web(web_pool: Pool) -> AsyncIterator[Web]:
    """An HTTP application with an empty database for each test."""
    async with answering(web_pool) as one:
        yield one


@pytest.fixture(scope="module")
async def shared_web(web_pool: Pool) -> AsyncIterator[Web]:
    """An HTTP application for all tests of a module that each have applications and endpoints of their own."""
    async with answering(web_pool) as one:
        yield one


_TABLES = (
    *("applications", "projects", "servers", "endpoints", "deliveries", "registries", "api_keys"),
    *("groups", "releases", "engines"),
)


@asynccontextmanager
async def answering(
    web_pool: Pool, *, emptied: bool = True, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Web]:
    async with web_pool.acquire() as connection:
        if emptied:
            await empty(connection, *_TABLES)
        key, _ = await api_keys.insert_key(connection, "tests")
    rollouts = StubRollouts()
    own = Settings.from_environ({"HOME": "/", "GATEWAY_TRUSTED_PROXIES": "127.0.0.1", **(settings or {})})
    validator = ResponseValidator()
    async with registry_client.connect() as registry:
        application = build(Context(web_pool, VAULT, rollouts, own, registry))
        add_dashboard(application)
        application.middlewares.insert(0, validator.middleware)
        server = _Server(application)
        await server.start_server()
        async with TestClient(server, cookie_jar=aiohttp.DummyCookieJar()) as client:
            yield Web(client, web_pool, key, rollouts, validator=validator)
    assert validator.violations == []
