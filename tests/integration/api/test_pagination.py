"""Lists are read page by page: whatever comes or goes meanwhile, each row is shown once, the newest first."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gateway.model.api_keys import Grants
from gateway.model.errors import InvalidInput
from gateway.store import api_keys
from gateway.store.pagination import Cursor, Page
from tests.support.api_client import Web

COUNT = 7


async def _pages(web: Web, procedure: str, **given: str) -> AsyncIterator[list[dict[str, Any]]]:
    cursor: dict[str, str] = {}
    while True:
        query = {"limit": "2", **given, **cursor}
        async with web.client.get(f"/api/{procedure}", params=query, headers={"x-api-key": web.key}) as answer:
            assert answer.status == 200
            yield await answer.json()
            if "X-Next-Cursor" not in answer.headers:
                return
            cursor = {"cursor": answer.headers["X-Next-Cursor"]}


async def _applications(web: Web) -> None:
    for number in range(COUNT):
        image = f"acme/web{number}"
        await web.mutate("application.create", name=f"n{number}", applicationId=f"a{number}", dockerImage=image)


async def _projects(web: Web) -> None:
    for number in range(COUNT):
        await web.mutate("project.create", name=f"p{number}")


async def _registries(web: Web) -> None:
    for number in range(COUNT):
        await web.mutate(
            "registry.create",
            registryName=f"r{number}",
            registryUrl=f"r{number}.example.com",
            username="u",
            password="p",
            registryType="cloud",
        )


async def _servers(web: Web) -> None:
    await web.pool.execute(
        "INSERT INTO servers (name, host) SELECT 's' || n, 'tcp://127.0.0.1:1' FROM generate_series(1, $1) n", COUNT
    )


async def _webhooks(web: Web) -> None:
    for _ in range(COUNT):
        await web.endpoint("dockerhub", "s")


async def _deployments(web: Web) -> None:
    await web.mutate("application.create", name="a0", applicationId="a0", dockerImage="acme/web")
    for _ in range(COUNT):
        await web.mutate("application.deploy", applicationId="a0")
        await web.pool.execute("UPDATE deployments SET status = 'cancelled', finished_at = now()")


async def _deliveries(web: Web) -> None:
    await web.pool.execute(
        """
        INSERT INTO deliveries (source, body, verdict, received_at)
        SELECT 'dockerhub', '', (ARRAY['ignored', 'rejected'])[1 + n % 2]::verdict, now() - make_interval(mins => n / 3)
          FROM generate_series(1, $1) n
        """,
        COUNT,
    )


LISTS: list[tuple[str, dict[str, str], str, Callable[[Web], Awaitable[None]]]] = [
    ("application.all", {}, "applicationId", _applications),
    ("subscription.all", {}, "subscriptionId", _applications),
    ("project.all", {}, "projectId", _projects),
    ("registry.all", {}, "registryId", _registries),
    ("server.all", {}, "serverId", _servers),
    ("webhook.all", {}, "endpointId", _webhooks),
    ("deployment.all", {"applicationId": "a0"}, "deploymentId", _deployments),
    ("deployment.allByType", {"id": "a0", "type": "application"}, "deploymentId", _deployments),
    ("deployment.allCentralized", {}, "deploymentId", _deployments),
    ("delivery.all", {}, "deliveryId", _deliveries),
]


@pytest.mark.parametrize(("procedure", "given", "named", "fill"), LISTS, ids=[one[0] for one in LISTS])
async def test_each_row_is_shown_once_newest_first(
    web: Web, procedure: str, given: dict[str, str], named: str, fill: Callable[[Web], Awaitable[None]]
) -> None:
    await fill(web)
    (whole,) = [rows async for rows in _pages(web, procedure, **given, limit="1000")]
    pages = [rows async for rows in _pages(web, procedure, **given)]
    assert max(map(len, pages)) == 2
    walked = [row[named] for rows in pages for row in rows]
    assert walked == [row[named] for row in whole]
    assert len(set(walked)) == len(walked) >= COUNT
    times: list[Any] = [row.get("createdAt") or row.get("receivedAt") for row in whole]
    assert times == sorted(times, reverse=True)


async def test_what_comes_or_goes_between_two_pages_shifts_nothing(web: Web) -> None:
    await _deployments(web)
    (whole,) = [rows async for rows in _pages(web, "deployment.all", applicationId="a0", limit="1000")]
    ids = [row["deploymentId"] for row in whole]
    walked: list[str] = []
    async for rows in _pages(web, "deployment.all", applicationId="a0"):
        if not walked:
            await web.mutate("application.deploy", applicationId="a0")
            # The row that the cursor names is removed, and one that comes later.
            await web.pool.execute("DELETE FROM deployments WHERE deployment_id = ANY($1)", [ids[1], ids[3]])
        walked += [row["deploymentId"] for row in rows]
    assert walked == [one for one in ids if one != ids[3]]


async def test_a_key_for_some_applications_pages_through_those_alone(web: Web) -> None:
    await _applications(web)
    for number in range(COUNT):
        await web.mutate("application.deploy", applicationId=f"a{number}")
    mine = {"a1", "a4", "a5"}
    async with web.pool.acquire() as connection, connection.transaction():
        web.key, _ = await api_keys.insert_key(connection, "some", grants=Grants(frozenset(mine)))
    for procedure in ("application.all", "subscription.all", "deployment.allCentralized"):
        found = [row["applicationId"] async for rows in _pages(web, procedure) for row in rows]
        assert found == ["a5", "a4", "a1"], procedure


@pytest.mark.parametrize(
    "cursor", ["x", "2026-11-29", "2026-11-29T10:00:00Z,", "99999-01-01,x", "0001-01-01T00:00+14,x"]
)
async def test_what_is_no_cursor_is_refused_with_what_to_do(web: Web, cursor: str) -> None:
    status, answer = await web.get("/api/application.all", cursor=cursor)
    assert status == 400, answer
    assert "X-Next-Cursor" in str(answer)


def test_a_cursor_is_read_as_it_was_written() -> None:
    written = "2026-11-29T10:11:12.000013Z,a,b"
    assert str(Cursor.parse(written)) == written
    assert Cursor.parse("2026-11-29T11:11:12.000013+01:00,a,b") == Cursor.parse(written)
    with pytest.raises(InvalidInput):
        Cursor.parse("2026-11-29T10:11:12Z,a\0")
    assert Page(1).next([], lambda one: one) is None
