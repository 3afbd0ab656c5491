"""What Podman answers that no Docker does."""

from typing import Any
from unittest.mock import AsyncMock

import pytest

from gateway.docker.container import adopted_spec
from gateway.docker.engine import api_version, containers
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import _health
from gateway.model.errors import Code, NotOnEngine, Postponed
from gateway.model.servers import Access

_VERSION = {
    "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}],
    "ApiVersion": "1.41",
    "MinAPIVersion": "1.24",
}
_INFO = {
    "Name": "vm",
    "ServerVersion": "4.3.1",
    "OSType": "linux",
    "Architecture": "amd64",
    "DockerRootDir": "/var/lib",
}


def test_podman_is_told_from_docker() -> None:
    assert api_version.is_podman(_VERSION)
    assert not api_version.is_podman({"Components": [{"Name": "Engine"}, {"Name": "containerd"}]})
    assert not api_version.is_podman({"ApiVersion": "1.41"})


async def test_podman_which_answers_with_another_id_each_time_is_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Access("unix:///run/podman.sock"), 1)
    monkeypatch.setattr(engine, "_query_json", AsyncMock(return_value=_VERSION))
    monkeypatch.setattr(engine, "call", AsyncMock(side_effect=[{**_INFO, "ID": "one"}, {**_INFO, "ID": "two"}]))
    try:
        seen = {(one.engine_id, one.run) for one in [await engine.identify(), await engine.identify()]}
        assert seen == {("podman:vm:/var/lib", "podman")}
        assert await engine.built_in_networks() == [], "it is not asked: it knows no such filter"
    finally:
        await engine.close()
        await engine.connector.close()


def test_a_limit_that_podman_shows_can_be_asked_for_again() -> None:
    shown = {"HostConfig": {"Ulimits": [{"Name": "RLIMIT_NOFILE", "Soft": 1, "Hard": 2}]}}
    made = api_version.create_body(shown, (1, 41))
    assert made["HostConfig"]["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]


@pytest.mark.parametrize(
    ("status", "health"),
    [(None, None), ("", None), ("none", None), ("starting", "starting"), ("healthy", "healthy")],
)
def test_a_container_without_a_health_check_has_no_health(status: str | None, health: str | None) -> None:
    assert _health({"Status": status}) == health


def _seen(*, running: bool = False, pid: int = 0, address: str = "") -> dict[str, Any]:
    """Return what Podman 5.8.6 answers about a container."""
    network = {"IPAddress": address, "Aliases": ["2d7b"], "NetworkID": "2f259bab93aa"}
    return {
        "Id": "2d7b",
        "Name": "/app",
        "Created": "2026-11-30T17:50:24Z",
        "Image": "i",
        "Config": {"Image": "app", "Labels": {}},
        "State": {
            "Status": "running" if running or pid else "exited",
            "Running": running, "Pid": pid, "Restarting": False, "Paused": False, "ExitCode": 3, "OOMKilled": False,
            "Error": "", "StartedAt": "2026-11-30T17:50:24Z", "FinishedAt": "2026-11-30T17:50:25Z",
        },
        "RestartCount": 0,
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
        "NetworkSettings": {"Networks": {"podman": network}, "Ports": {}},
        "Mounts": [],
    }  # fmt: skip


_RUNS, _STOPS = _seen(running=True, pid=7, address="10.88.0.2"), _seen(pid=7, address="10.88.0.2")
_LEAVES, _HAS_LEFT = _seen(address="10.88.0.2"), _seen()


class _Podman(AsyncMock):
    """An engine that answers each question about the one container with the next of these, the last for ever."""

    def __init__(self, *seen: dict[str, Any] | None, podman: bool = True) -> None:
        super().__init__(spec=Engine)
        self.is_podman.return_value = podman
        self.call.side_effect = self._answer
        self.left, self.stops = list(seen), 0

    def _get_child_mock(self, /, **given: Any) -> AsyncMock:
        return AsyncMock(**given)

    async def _answer(self, method: str, path: str, **_given: Any) -> Any:
        if method == "POST":
            assert path == "containers/2d7b/stop"
            self.stops += 1
            return None
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if found is None:
            raise NotOnEngine(Code.CONTAINER_MISSING, "no such container")
        return found


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_LOOK_AGAIN", 0)


@pytest.mark.parametrize(
    ("seen", "running", "restarting"),
    [(_RUNS, True, False), (_STOPS, True, False), (_LEAVES, False, True), (_HAS_LEFT, False, False)],
    ids=["runs", "is being stopped", "has exited, on its network", "has left it"],
)
async def test_a_container_has_stopped_when_podman_has_taken_it_off_its_network(
    seen: dict[str, Any], running: bool, restarting: bool
) -> None:
    found = await containers.inspect(_Podman(seen), "2d7b")
    assert found is not None
    assert (found.running, found.restarting, found.stopped) == (running, restarting, not (running or restarting))


async def test_a_container_of_docker_has_stopped_when_it_does_not_run() -> None:
    found = await containers.inspect(_Podman(_LEAVES, podman=False), "2d7b")
    assert found is not None
    assert found.stopped


@pytest.mark.parametrize(
    ("seen", "stops"),
    [
        pytest.param([_HAS_LEFT], 1, id="it is off its network"),
        pytest.param([_LEAVES, _LEAVES, _HAS_LEFT], 3, id="it leaves it later"),
        pytest.param([_LEAVES, _RUNS, _LEAVES, _HAS_LEFT], 4, id="it is started again meanwhile, and stopped again"),
        pytest.param([_LEAVES, None], 2, id="it is removed meanwhile"),
    ],
)
async def test_a_stop_ends_once_podman_has_given_the_ports_back(
    no_pause: None, seen: list[dict[str, Any] | None], stops: int
) -> None:
    podman = _Podman(*seen)
    await containers.stop(podman, "2d7b", grace=1)
    assert podman.stops == stops
    assert len(podman.left) == 1, "it was looked at to the last"


async def test_a_stop_that_podman_never_ends_says_what_to_do(no_pause: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_LEAVING_DEADLINE", 0)
    with pytest.raises(Postponed, match="podman container cleanup app") as refused:
        await containers.stop(_Podman(_LEAVES), "2d7b", grace=1)
    assert refused.value.reason.code is Code.ENGINE_BUSY


def test_the_default_network_of_podman_is_no_network_that_somebody_chose() -> None:
    default = {"NetworkID": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9", "Aliases": ["2d7b"]}
    found = {
        "Id": "2d7b",
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Networks": {"podman": default, "chosen": {"NetworkID": "77ab"}}},
    }
    assert set(adopted_spec.manual_networks(found, but=())) == {"chosen"}
