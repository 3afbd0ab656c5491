"""Keys are made, shown and refused over the API, as its clients do it."""

from typing import Any

import pytest

from tests.support.api_client import Web

GENUINE = {
    "name": "ci",
    "metadata": {"organizationId": "default"},
    "expiresIn": 86_400,
    "rateLimitEnabled": False,
    "rateLimitTimeWindow": None,
}


async def made(web: Web, **given: Any) -> dict[str, Any]:
    key: dict[str, Any] = await web.mutate("user.createApiKey", **{**GENUINE, **given})
    return key


async def status_of(web: Web, key: str, path: str, body: object = None) -> int:
    if body is None:
        async with web.client.get(path, headers={"x-api-key": key}) as answer:
            return int(answer.status)
    return (await web.post(path, body, **{"x-api-key": key}))[0]


async def test_a_client_learns_who_it_is(web: Web) -> None:
    member = await web.query("user.get")
    assert await web.query("user.all") == [member]
    assert (member["role"], member["organizationId"], member["userId"]) == ("owner", "default", member["user"]["id"])
    assert [one["name"] for one in member["user"]["apiKeys"]] == ["tests"]
    assert (await web.query("user.session"))["user"]["id"] == member["userId"]


async def test_times_of_a_user_are_dates_to_clients_that_have_them(web: Web) -> None:
    status, answer = await web.get("/api/trpc/user.get")
    dates = answer["result"]["data"]["meta"]["values"]
    assert (status, dates["createdAt"], dates["user.apiKeys.0.createdAt"]) == (200, ["Date"], ["Date"])
    assert "user.apiKeys.0.expiresAt" not in dates


async def test_a_key_is_shown_when_it_is_made_and_never_again(web: Web) -> None:
    key = await made(web, prefix="ci_")
    assert key["key"].startswith("ci_")
    assert await status_of(web, key["key"], "/api/application.all") == 200
    status, answer = await web.get("/api/user.get")
    shown = next(one for one in answer["user"]["apiKeys"] if one["id"] == key["id"])
    assert (status, shown["name"], shown["start"] == key["key"][:6]) == (200, "ci", True)
    assert key["key"] not in str(answer)


async def test_a_key_is_refused_once_it_is_deleted(web: Web) -> None:
    key = await made(web)
    assert await web.mutate("user.deleteApiKey", apiKeyId=key["id"]) is True
    assert await status_of(web, key["key"], "/api/application.all") == 401
    assert [one["name"] for one in (await web.query("user.get"))["user"]["apiKeys"]] == ["tests"]
    assert (await web.post("/api/user.deleteApiKey", {"apiKeyId": key["id"]}))[0] == 404


async def test_valid_keys_are_shown_however_many_others_came_later(web: Web) -> None:
    reads = await made(web, scope="read")
    for dead in ("revoked_at", "expires_at"):
        await web.pool.execute(
            f"INSERT INTO api_keys (name, prefix, key_hash, {dead})"
            f" SELECT 'n', 'gw_', convert_to('{dead}' || n, 'UTF8'), now() FROM generate_series(1, 1000) AS n"
        )
    assert [one["name"] for one in (await web.query("user.get"))["user"]["apiKeys"]] == ["ci", "tests"]
    await web.pool.execute("UPDATE api_keys SET revoked_at = NULL, expires_at = NULL")
    async with web.client.get("/api/user.get", headers={"x-api-key": reads["key"]}) as answer:
        assert [one["id"] for one in (await answer.json())["user"]["apiKeys"]] == [reads["id"]]


async def test_a_key_is_made_for_one_application_and_makes_no_others(web: Web) -> None:
    await web.mutate("application.create", name="mine", applicationId="mine", dockerImage="acme/app")
    key = await made(web, applicationIds=["mine"])
    assert (key["scope"], key["applicationIds"], key["projectIds"]) == ("admin", ["mine"], [])
    assert await status_of(web, key["key"], "/api/application.one?applicationId=mine") == 200
    assert await status_of(web, key["key"], "/api/user.createApiKey", {"name": "all"}) == 403
    async with web.client.get("/api/user.get", headers={"x-api-key": key["key"]}) as answer:
        assert [one["id"] for one in (await answer.json())["user"]["apiKeys"]] == [key["id"]]


async def test_a_limit_is_kept_to_where_it_is_asked_for(web: Web) -> None:
    key = await made(web, rateLimitEnabled=True, rateLimitMax=2, rateLimitTimeWindow=60_000)
    free = await made(web, rateLimitMax=2, rateLimitTimeWindow=60_000)
    for one, expected in ((key, [200, 200, 429, 429]), (free, [200] * 4)):
        assert [await status_of(web, one["key"], "/api/settings.health") for _ in expected] == expected


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""),
        ("expiresIn", 0),
        ("scope", "root"),
        ("prefix", "no space"),
        ("applicationIds", ["nobody"]),
        ("projectIds", ["nobody"]),
        ("rateLimitMax", 0),
        ("remaining", 5),
    ],
)
async def test_a_wrong_key_is_not_made(web: Web, field: str, wrong: object) -> None:
    status, answer = await web.post("/api/user.createApiKey", {**GENUINE, field: wrong})
    assert (status, answer["issues"][0]["path"][0]) == (400, field)
    assert await web.count("api_keys") == 1
