"""What Podman answers that no Docker does."""

from unittest.mock import AsyncMock

import pytest

from gateway.docker.engine import api_version
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import _health
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
