"""A gateway of several processes on one port: what holds whichever of them answers, and when one is killed."""

import asyncio
import io
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import orjson
import pytest

from gateway.cli.demo.process import GatewayProcess, until
from tests.support.command_line import gateway_process
from tests.support.databases import database_settings

_PROCESSES = 3


@pytest.fixture(scope="module")
async def settings(postgres_server: str) -> dict[str, str]:
    database = await database_settings(postgres_server, "processes")
    # A burst of a webhook is ten seconds' worth.
    return {**database, "GATEWAY_PROCESSES": str(_PROCESSES), "GATEWAY_WEBHOOK_RATE": "20"}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path_factory.mktemp("processes"), "unix:///nowhere", settings) as running:
        await until(lambda: _all_accept(running))
        yield running


def _accepting(gateway: GatewayProcess) -> set[int]:
    """Return the accepting processes beside the supervising one."""
    found = set()
    for task in Path(f"/proc/{gateway.pid}/task").iterdir():
        for child in map(int, (task / "children").read_text(encoding="ascii").split()):
            if b"gateway.accepting" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found


def _living(processes: set[int]) -> set[int]:
    return {one for one in processes if Path(f"/proc/{one}").exists()}


async def _all_accept(gateway: GatewayProcess) -> bool | None:
    log = await asyncio.to_thread(gateway.log.read_text)
    return log.count('"Serving"') >= _PROCESSES or None


async def _post(gateway: GatewayProcess, path: str, body: object, **headers: str) -> tuple[int, bytes]:
    """Post on a connection of its own, so that any of the processes may answer."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.post(gateway.url + path, data=io.BytesIO(orjson.dumps(body)), headers=headers) as answer,
    ):
        return answer.status, await answer.read()


def _push(number: int) -> dict[str, object]:
    return {"push_data": {"tag": "latest", "pushed_at": number}, "repository": {"repo_name": "acme/web"}}


async def _sum(gateway: GatewayProcess, metric: str) -> float:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.get(f"{gateway.url}/metrics") as answer,
    ):
        return sum(map(float, re.findall(rf"^{metric}(?:{{.*}})? (.+)$", await answer.text(), re.MULTILINE)))


async def test_a_killed_accepting_process_is_replaced_and_loses_nothing_that_was_answered(
    gateway: GatewayProcess, settings: dict[str, str]
) -> None:
    path = (await gateway.endpoint("dockerhub"))["path"]
    counted, ended = await _sum(gateway, "gateway_deliveries_total"), "gateway_accepting_processes_ended_total"
    before, answered = _accepting(gateway), set()
    assert len(before) == _PROCESSES - 1

    async def push(number: int) -> None:
        try:
            status, body = await _post(gateway, path, _push(number))
        except aiohttp.ClientError:
            return  # no answer, so the sender repeats it
        assert status == 200, body
        answered.add(orjson.loads(body)["deliveryId"])

    for number in range(0, 150, 10):
        pushes = [asyncio.create_task(push(number + one)) for one in range(10)]
        if number == 50:
            for process in before:
                os.kill(process, signal.SIGKILL)
        await asyncio.gather(*pushes)
    connection = await asyncpg.connect(settings["GATEWAY_DATABASE_URL"])
    stored = {row[0] for row in await connection.fetch("SELECT delivery_id FROM deliveries")}
    await connection.close()
    assert len(answered) >= 100
    assert answered <= stored

    async def replaced() -> bool | None:
        present = _accepting(gateway)
        return (len(present) == _PROCESSES - 1 and not present & before) or None

    await until(replaced)
    assert await _sum(gateway, ended) == len(before)
    # Also what the killed ones had counted; they may have stored one more than they answered.
    assert await _sum(gateway, "gateway_deliveries_total") - counted >= len(answered)


async def test_all_processes_share_the_rate_of_a_webhook(gateway: GatewayProcess) -> None:
    # So few that also a busy machine sends more: two a second, and ten seconds' worth at once.
    path = (await gateway.endpoint("dockerhub", "--rate", "120"))["path"]
    began = time.monotonic()
    answers = []
    for number in range(0, 200, 10):
        answers += await asyncio.gather(*(_post(gateway, path, _push(1000 + number + one)) for one in range(10)))
    allowed = 2 * (10 + time.monotonic() - began)
    refused = [body for status, body in answers if status != 200]
    assert refused
    assert all(b"too many requests" in body for body in refused)
    # Requests that are the first ones of a process, and come at the same time, do not know the webhook's limit yet.
    assert len(answers) - len(refused) <= allowed + 10 * _PROCESSES


async def test_all_processes_share_the_limit_of_wrong_keys_and_know_the_address(gateway: GatewayProcess) -> None:
    wrong, began = list[int](), time.monotonic()
    while 429 not in wrong:
        claimed = {"x-api-key": f"gw_{len(wrong)}", "X-Gateway-Relayed-From": f"10.0.0.{len(wrong)}"}
        wrong.append((await _post(gateway, "/api/application.create", {}, **claimed))[0])
    assert wrong[:60] == [401] * 60
    assert len(wrong) <= 60 + (time.monotonic() - began) + 2  # a burst of 60, and one a second
    said = orjson.loads(await gateway.cli("audit", "--json", "--limit", "1000"))
    assert {one["address"] for one in said if one["action"] == "key"} <= {"127.0.0.1"}  # whatever a client claims


async def test_every_process_answers_the_api_as_the_supervising_one_does(gateway: GatewayProcess) -> None:
    await gateway.mutate("application.create", {"name": "web", "applicationId": "web", "dockerImage": "acme/other"})
    answers = {orjson.dumps(await gateway.query("application.one", applicationId="web")) for _ in range(12)}
    assert len(answers) == 1
    key = {"x-api-key": gateway.key, "Content-Type": "application/json"}
    large = {(await _post(gateway, "/api/application.create", {"name": "a" * 2**21}, **key))[0] for _ in range(6)}
    assert large == {413}
    unknown = {await _post(gateway, "/api/nothing%20here", {}, **key) for _ in range(6)}
    assert {status for status, _ in unknown} == {404}


@pytest.mark.long
async def test_no_accepting_process_outlives_the_supervising_one(gateway: GatewayProcess) -> None:
    accepting = _accepting(gateway)
    assert len(accepting) == _PROCESSES - 1
    await gateway.stop(signal.SIGKILL)

    async def gone() -> bool | None:
        return not _living(accepting) or None

    await until(gone)
    await gateway.start()


async def test_what_is_in_progress_is_answered_before_any_process_stops(
    gateway: GatewayProcess, settings: dict[str, str]
) -> None:
    path = (await gateway.endpoint("dockerhub"))["path"]
    accepting = _accepting(gateway)
    stopped = (await asyncio.to_thread(gateway.log.read_text)).count('"Stopping"')
    connection = await asyncpg.connect(settings["GATEWAY_DATABASE_URL"])
    async with connection.transaction():
        await connection.execute("LOCK TABLE deliveries")
        # So many that each process has some: 40 are all of two processes once in 300,000 runs.
        pushes = [asyncio.create_task(_post(gateway, path, _push(5000 + number))) for number in range(40)]

        async def wait_in_all() -> bool | None:
            waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND relation = 'deliveries'::regclass"
            return await connection.fetchval(waiting) >= _PROCESSES or None

        await until(wait_in_all)
        os.kill(gateway.pid, signal.SIGTERM)

        async def stops() -> bool | None:
            log = await asyncio.to_thread(gateway.log.read_text)
            return log.count('"Stopping"') - stopped >= _PROCESSES or None

        await until(stops)
    assert {status for status, _ in await asyncio.gather(*pushes)} == {200}
    await connection.close()
    assert await gateway.stop() == 0
    assert not _living(accepting)
