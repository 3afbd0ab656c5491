"""Rollouts on Docker Engine 29 as a client sees it: tests.support.engine_29, before a real engine.

`make engine-29` runs the tests of rollouts on it.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import aiohttp
import pytest
from aiohttp import web

from gateway.cli.demo.engine import PrivateEngine
from gateway.docker.engine import images
from gateway.docker.engine.client import Engine, connect
from gateway.model.deployments import Kind, Status
from gateway.model.reference import Reference
from gateway.store import database
from tests.support.databases import create_database
from tests.support.engine_29 import StrictEngine, engine_29
from tests.support.real_parts import Pushes
from tests.support.rollout_env import a_gateway, an_application


@pytest.fixture
async def strict(dockerd: PrivateEngine) -> AsyncIterator[tuple[str, StrictEngine]]:
    async with engine_29(dockerd.socket) as one:
        yield one


async def test_a_push_is_rolled_out_and_asks_for_nothing_that_is_not_described(
    strict: tuple[str, StrictEngine], postgres: str, pushes: Pushes
) -> None:
    host, engine = strict
    async with connect(host) as client, database.connect(await create_database(postgres, "engine_29")) as pool:
        app = await an_application(pool, client, pushes)
        await _pull_elsewhere(client, pushes, "v2")
        async with a_gateway(pool, client, host):
            await pushes("v1")
            assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
            digest = await pushes("v2")
            deployment = await app.ask(Kind.DEPLOY)
            assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, digest), deployment
        assert (await app.serving()).image_id == digest, "its image is called as a containerd image store calls it"
        image = await images.inspect(client, str(Reference.parse(pushes.name()).with_digest(digest)))
        assert image is not None
        assert image.image_id == digest
        for one in await app.containers():
            await client.call("DELETE", f"containers/{one.container_id}", params={"force": 1})
    assert engine.refused == []
    assert engine.spoken == {None, (1, 51)}


async def test_an_old_or_too_new_version_is_refused_in_the_engines_words(strict: tuple[str, StrictEngine]) -> None:
    connector = aiohttp.UnixConnector(strict[0].removeprefix("unix://"))
    async with aiohttp.ClientSession(connector=connector) as session:
        for version, word in (("1.43", "old"), ("1.53", "new")):
            async with session.get(f"http://engine/v{version}/info") as answer:
                assert answer.status == 400
                assert f"client version {version} is too {word}" in (await answer.json())["message"]


async def test_an_engine_that_is_updated_and_downgraded_under_the_gateway_is_spoken_to_in_its_version(
    tmp_path: Path,
) -> None:
    speaks, seen = {"most": "1.41", "least": "1.12"}, list[str]()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/version":
            return web.json_response({"ApiVersion": speaks["most"], "MinAPIVersion": speaks["least"]})
        version = request.match_info["version"]
        if tuple(map(int, version.split("."))) < tuple(map(int, speaks["least"].split("."))):
            text = f"client version {version} is too old. Minimum supported API version is {speaks['least']}"
        elif tuple(map(int, version.split("."))) > tuple(map(int, speaks["most"].split("."))):
            text = f"client version {version} is too new. Maximum supported API version is {speaks['most']}"
        else:
            seen.append(version)
            return web.json_response([])
        return web.json_response({"message": text}, status=400)

    app = web.Application()
    app.router.add_get("/version", answer)
    app.router.add_get("/v{version}/containers/json", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    try:
        async with connect(f"unix://{tmp_path}/socket") as engine:
            for most, least in (("1.41", "1.12"), ("1.52", "1.44"), ("1.41", "1.12")):
                speaks.update(most=most, least=least)
                assert await engine.call("GET", "containers/json") == []
                assert await _fenced(engine).call("GET", "containers/json") == []
    finally:
        await runner.cleanup()
    assert seen == ["1.41", "1.41", "1.51", "1.51", "1.41", "1.41"]


async def _pull_elsewhere(client: Engine, pushes: Pushes, version: str) -> None:
    """Pull the same image from another repository. In a containerd image store both have the same id."""
    elsewhere = Pushes(pushes.address, f"{pushes.path}/copy")
    reference = Reference.parse(elsewhere.name()).with_digest(await elsewhere(version))
    await images.pull(client, reference, None, progress=AsyncMock(), stall=10)


def _fenced(engine: Engine) -> Engine:
    async def allowed() -> None:
        return None

    return engine.fenced(allowed)
