"""What many rollouts want of one engine at the same time is asked once, and told to each as it concerns them."""

import asyncio
from collections.abc import AsyncIterator
from copy import copy
from types import SimpleNamespace
from typing import Any, Self

import pytest
from aiodocker.exceptions import DockerError

from gateway.docker.container import dependents
from gateway.docker.engine import images
from gateway.model.errors import Failed
from gateway.model.reference import Reference
from gateway.model.registries import Credentials

DIGEST = "sha256:" + "ab" * 32
REFERENCE = Reference.parse(f"registry:5000/app@{DIGEST}")
ALICE, BOB = Credentials("alice", "secret"), Credentials("bob", "secret")


class FakeEngine:
    """An engine whose pulls go on once they are let, and which has no image until one has ended."""

    def __init__(self) -> None:
        self.original: Any = self
        self.image_labels: dict[str, Any] = {}
        self.images = self
        self.pulled_as: list[str | None] = []
        self.ended = 0
        self.asked: list[str] = []
        self.there = ["one", "two"]
        self.may_go_on = asyncio.Event()

    def fenced(self) -> Self:
        return copy(self)

    async def pull(self, _name: str, *, auth: dict[str, str] | None, stream: bool) -> AsyncIterator[dict[str, Any]]:
        assert stream
        self.pulled_as.append(auth["username"] if auth else None)
        try:
            yield {"id": "layer", "status": "Pulling fs layer"}
            await self.original.may_go_on.wait()
            if auth and auth["username"] == BOB.username:
                raise DockerError(404, "pull access denied for registry:5000/app, repository does not exist")
            yield {"id": "layer", "status": "Pull complete"}
        finally:
            self.original.ended += 1

    async def call(self, _method: str, path: str, **_given: Any) -> Any:
        self.asked.append(path)
        if path == "containers/json":
            return [{"Id": one} for one in self.there]
        if path.startswith("containers/"):
            return {"Id": path.split("/")[1], "HostConfig": {}}
        repo_digests = [f"registry:5000/app@{DIGEST}"]
        return {
            "Id": "i",
            "Os": "linux",
            "Architecture": "amd64",
            "RepoDigests": repo_digests,
            "RepoTags": [],
            "Config": {},
        }


class Rollout:
    """One that pulls, and what it was shown of the pull."""

    def __init__(self, engine: FakeEngine, credentials: Credentials | None = ALICE, *, fails: bool = False) -> None:
        self.shown: list[str] = []
        self.fails = fails
        given: Any = engine.fenced()
        pulling = images.pull(given, REFERENCE, credentials, progress=self.show, stall=9)
        self.task = asyncio.create_task(pulling)

    async def show(self, progress: str) -> None:
        if self.fails:
            raise ConnectionError("the database is away")
        self.shown.append(progress)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(images, "_PROGRESS_INTERVAL", 0.001)
    return FakeEngine()


async def _shown(*rollouts: Rollout) -> None:
    async with asyncio.timeout(5):
        while not all(one.shown or one.task.done() for one in rollouts):  # noqa: ASYNC110 - it is shown by and by
            await asyncio.sleep(0.001)


async def test_rollouts_with_equal_credentials_share_a_pull_and_each_shows_its_progress(engine: FakeEngine) -> None:
    alike = [Rollout(engine) for _ in range(3)]
    others = [Rollout(engine, Credentials("carol", "secret")), Rollout(engine, None)]
    await _shown(*alike, *others)
    assert sorted(engine.pulled_as, key=str) == [None, "alice", "carol"]
    engine.may_go_on.set()
    pulled = [await one.task for one in (*alike, *others)]
    assert {one.image_id for one in pulled} == {"i"}
    assert {tuple(one.shown) for one in alike} == {("0/1 layers, 0.0/0.0 MB", "1/1 layers, 0.0/0.0 MB")}


async def test_who_is_denied_profits_from_nobody(engine: FakeEngine) -> None:
    allowed, denied = Rollout(engine), Rollout(engine, BOB)
    await _shown(allowed, denied)
    engine.may_go_on.set()
    assert (await allowed.task).has_digest(DIGEST)
    with pytest.raises(Failed):
        await denied.task


async def test_one_that_leaves_a_pull_ends_it_for_none_of_the_others(engine: FakeEngine) -> None:
    cancelled, without_database, stays = Rollout(engine), Rollout(engine, fails=True), Rollout(engine)
    await _shown(cancelled, without_database, stays)
    cancelled.task.cancel()
    with pytest.raises(ConnectionError):
        await without_database.task
    await asyncio.wait([cancelled.task])
    assert (len(engine.pulled_as), engine.ended) == (1, 0)
    engine.may_go_on.set()
    assert (await stays.task).has_digest(DIGEST)


async def test_a_pull_that_nobody_waits_for_ends(engine: FakeEngine) -> None:
    rollouts = [Rollout(engine), Rollout(engine)]
    await _shown(*rollouts)
    for one in rollouts:
        one.task.cancel()
    await asyncio.wait([one.task for one in rollouts])
    assert (len(engine.pulled_as), engine.ended) == (1, 1)


async def test_what_a_container_shares_is_asked_once_for_all_rollouts(engine: FakeEngine) -> None:
    for added in ("three", "four", "five"):
        engine.there.append(added)
        one: Any = engine.fenced()
        await dependents.move_to(one, "old", "new")
    inspected = [path for path in engine.asked if path != "containers/json"]
    assert sorted(inspected) == sorted(f"containers/{one}/json" for one in engine.there)


async def test_a_container_that_many_rollouts_ask_about_at_once_is_inspected_once(engine: FakeEngine) -> None:
    rollouts: list[Any] = [engine.fenced() for _ in range(5)]
    await asyncio.gather(*(dependents.move_to(one, "old", "new") for one in rollouts))
    inspected = [path for path in engine.asked if path != "containers/json"]
    assert sorted(inspected) == sorted(f"containers/{one}/json" for one in engine.there)


async def test_what_containers_share_is_remembered_of_so_many_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependents, "_MOST_NOTED", 100)
    engine: Any = FakeEngine()
    for number in range(1000):  # as rollouts come and go where none of them asks what is there
        made: Any = SimpleNamespace(container_id=str(number), inspection={"HostConfig": {}})
        dependents.note(engine, [made])
    remembered = dependents._KNOWN[engine].shared  # noqa: SLF001 - nothing else tells
    assert len(remembered) <= 100
    assert "999" in remembered
