"""Background tasks: one that fails is started again and counted, and shown while it keeps failing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway import background
from gateway.background import POLL_INTERVAL, BackgroundTasks, backoff, cancel_and_wait, isolate_failures
from gateway.docker.engine.client import EngineIdentity
from gateway.model.errors import Code, DatabaseUnavailable, Postponed, Unavailable
from gateway.store.database import Pool, statement
from gateway.worker.engine_worker import EngineWorker, PeriodicTask
from tests.support.api_client import Web


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loops pause for no time."""
    monkeypatch.setattr("gateway.background.POLL_INTERVAL", 0.0)


def counted(name: str) -> float:
    return REGISTRY.get_sample_value("gateway_loop_failures_total", {"loop": name}) or 0.0


def failing(errors: list[BaseException]) -> Callable[[], Awaitable[None]]:
    """Return a loop that ends on each of these, and then goes on."""
    left: Iterator[BaseException] = iter(errors)

    async def act() -> None:
        if (error := next(left, None)) is not None:
            raise error
        await asyncio.Event().wait()

    return act


async def settled() -> None:
    for _ in range(200):
        await asyncio.get_running_loop().run_in_executor(None, int)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", [KeyError("defect"), Unavailable("away"), asyncio.CancelledError(), TimeoutError()])
async def test_whatever_ends_a_loop_it_is_begun_again_and_counted(error: BaseException) -> None:
    background_tasks, before = BackgroundTasks(), counted("tried")
    task = background_tasks.start("tried", failing([error] * 2))
    await settled()
    assert not task.done()
    assert counted("tried") == before + 2
    await cancel_and_wait(task)
    assert task.cancelled()


@pytest.mark.usefixtures("at_once")
async def test_a_loop_that_keeps_failing_is_shown_until_it_has_gone_on_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    background_tasks = BackgroundTasks()
    task = background_tasks.start("tried", failing([KeyError("a defect")] * 3), about="here")
    assert background_tasks.failing == []
    await settled()
    assert [(one.name, one.about, one.failures, one.error) for one in background_tasks.failing] == [
        ("tried", "here", 3, "KeyError: 'a defect'")
    ]
    monkeypatch.setattr(background, "_STEADY", 0.0)
    assert background_tasks.failing == []
    await cancel_and_wait(task)


async def test_pauses_double_up_to_the_longest() -> None:
    assert [backoff(failures, 10.0) for failures in (1, 2, 3, 4, 5, 10**6)] == [1, 2, 4, 8, 10, 10]
    assert backoff(10**6, POLL_INTERVAL) == POLL_INTERVAL


async def test_a_loop_that_fails_on_the_way_out_is_not_begun_again() -> None:
    begun = 0

    async def act() -> None:
        nonlocal begun
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("on the way out")

    task = BackgroundTasks().start("tried", act)
    await settled()
    await cancel_and_wait(task)
    assert begun == 1


@pytest.mark.usefixtures("at_once")
async def test_a_defect_ends_nobody_who_writes_for_requests(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_on, done = set[str](), set[str]()

    def fails_first(name: str, begin: Callable[[Pool], Any]) -> Callable[[Pool], Any]:
        def begun(pool: Pool) -> Any:
            if name not in ended_on:
                ended_on.add(name)
                raise KeyError("a defect")
            done.add(name)
            return begin(pool)

        return begun

    monkeypatch.setattr("gateway.api.notify.statement", fails_first("notify", statement))
    monkeypatch.setattr("gateway.api.ingress.rejections.statement", fails_first("refusals", statement))
    path = await web.endpoint("distribution", "s")
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    async with asyncio.timeout(60):
        while done != {"notify", "refusals"}:
            await web.post(path, {"events": []}, Authorization="Bearer wrong")
            await web.mutate("application.deploy", applicationId="app")


@pytest.mark.usefixtures("at_once")
async def test_readiness_names_loops_that_do_not_recover(web: Web) -> None:
    task = web.rollouts.background_tasks.start("tried", failing([KeyError("a defect")] * 3), about="here")
    await settled()
    status, answer = await web.get("/readyz")
    assert (status, answer["status"]) == (200, "degraded")
    assert answer["loops"] == [{"name": "tried", "about": "here", "failures": 3}]
    _, shown = await web.get("/metrics")
    assert b'gateway_loops_failing{loop="tried"} 1.0' in shown
    await cancel_and_wait(task)
    _, answer = await web.get("/readyz")
    assert (answer["status"], answer["loops"]) == ("ok", [])


async def test_readiness_tells_of_a_database_that_takes_no_writes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.readiness._CACHED", 0.0)
    async with AsyncExitStack() as stack:
        # Background tasks use some connections at their start: a pool has no event for their return.
        while web.pool.get_idle_size() < web.pool.get_size():  # noqa: ASYNC110 - as said
            await asyncio.sleep(0)
        for _ in range(web.pool.get_size()):
            connection = await stack.enter_async_context(web.pool.acquire())
            await connection.execute("SET default_transaction_read_only = on")
    status, answer = await web.get("/readyz")
    assert (status, answer["status"], answer["database"]) == (503, "unavailable", "the database is read-only")
    status, answer = await web.get("/readyz")
    assert (status, answer["database"]) == (200, "ok")
    assert await web.count("readiness_probes") == 0


async def test_a_duty_that_waits_for_the_engine_is_not_repeated_each_second(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float]] = []
    enough = asyncio.Event()

    def at_once(failures: int, longest: float) -> float:
        asked.append((failures, longest))
        if len(asked) == 3:
            enough.set()
        return 0.0

    async def wait_for_the_engine(_: object) -> None:
        raise Postponed(Code.ENGINE_UNREACHABLE, "it does not answer")

    monkeypatch.setattr("gateway.worker.engine_worker.backoff", at_once)
    monkeypatch.setattr(EngineWorker, "_check_forever", asyncio.Event().wait)
    monkeypatch.setattr(EngineWorker, "_follow_events", asyncio.Event().wait)
    peers = OneTask(PeriodicTask("tried", 3600.0, wait_for_the_engine, on_events=True))
    host = EngineWorker(web.pool, peers, None, "here")  # type: ignore[arg-type]
    host.identity = EngineIdentity("id", "name", "1", "linux/amd64")
    living = asyncio.create_task(host.run())
    host.watch_or_leave()
    await enough.wait()
    assert asked[:3] == [(1, 3600.0), (2, 3600.0), (3, 3600.0)]
    await cancel_and_wait(living)


async def test_an_engine_is_observed_after_each_rollout_although_it_has_no_event(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: asyncio.Queue[None] = asyncio.Queue()

    async def observe(_: object) -> float | None:
        await runs.put(None)
        return None

    monkeypatch.setattr("gateway.worker.engine_worker.POLL_INTERVAL", 0.0)
    monkeypatch.setattr(EngineWorker, "_check_forever", asyncio.Event().wait)
    monkeypatch.setattr(EngineWorker, "_follow_events", asyncio.Event().wait)
    host = EngineWorker(web.pool, OneTask(PeriodicTask("observation", 3600.0, observe, on_events=True)), None, "here")  # type: ignore[arg-type]
    host.identity = EngineIdentity("id", "name", "1", "linux/amd64")
    living = asyncio.create_task(host.run())
    host.watch_or_leave()
    async with asyncio.timeout(20):
        await runs.get()
        host.rollout_ended()
        await runs.get()
    await cancel_and_wait(living)


class OneTask:
    """Stands in for the other engines, of which none is claimed for."""

    spread = 0.0

    def __init__(self, periodic: PeriodicTask) -> None:
        self.periodic_tasks, self.background_tasks = [periodic], BackgroundTasks()
        self.runs = asyncio.Semaphore()

    def servers_claimed_by(self, _host: EngineWorker) -> list[str | None]:
        return [None]

    def watches(self, _host: EngineWorker) -> bool:
        return True

    def make_room(self) -> None:
        """There is nothing to claim."""


def test_a_defect_with_one_of_many_ends_nothing_for_the_others() -> None:
    before = counted("tried")
    with isolate_failures("tried", "this one"):
        raise KeyError("a defect")
    assert counted("tried") == before + 1
    for waits in (DatabaseUnavailable("away"), Postponed(Code.ENGINE_UNREACHABLE, "away")):
        with pytest.raises(type(waits)), isolate_failures("tried", "this one"):
            raise waits
