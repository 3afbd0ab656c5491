"""Tests how long before the stop of an old version the boot of the next one begins."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.docker.container import boot_history


class _Engine:
    def __init__(self) -> None:
        self.original = self


class _Application:
    application_id = "a"


ENGINE: Any = _Engine()
APPLICATION: Any = _Application()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(boot_history, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def _head_start(*, start: float, stop: float, passed: float, clock: list[float]) -> float:
    boot_history.remember_start(ENGINE, APPLICATION, quick=True, seconds=start)
    boot_history.remember_stop(ENGINE, APPLICATION, stop)
    boot_history.note_boot(ENGINE, APPLICATION)
    clock[0] += passed
    return boot_history.head_start(ENGINE, APPLICATION)


@pytest.mark.parametrize(
    ("start", "stop", "passed", "wanted"),
    [(1.0, 0.0, 0.0, 1.0), (1.0, 1.0, 0.0, 0.2), (1.0, 1.0, 0.1, 0.1), (1.0, 1.0, 0.75, 0.0), (1.0, 5.0, 0.0, 0.0)],
)
def test_the_new_version_is_to_be_ready_shortly_before_the_stop_of_the_old_one_ends(
    clock: list[float], start: float, stop: float, passed: float, wanted: float
) -> None:
    assert _head_start(start=start, stop=stop, passed=passed, clock=clock) == pytest.approx(wanted)


def test_an_application_that_needs_its_network_no_longer_boots_quickly() -> None:
    boot_history.remember_start(ENGINE, APPLICATION, quick=True, seconds=1.0)
    assert boot_history.boots_quickly(ENGINE, APPLICATION)
    boot_history.remember_obstacle(ENGINE, APPLICATION, "it asked for a name")
    assert not boot_history.boots_quickly(ENGINE, APPLICATION)
    assert boot_history.obstacle(ENGINE, APPLICATION).endswith("it asked for a name")
