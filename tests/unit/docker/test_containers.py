"""Calls about containers, against answers that an engine gives only by chance."""

from unittest.mock import AsyncMock, Mock

import pytest

from gateway.docker.engine import containers, errors
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.model.errors import Code, Postponed

_STOPS = "Cannot update container 322d23f40cfc0ff5: cannot update a stopped container: unknown"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_UPDATE_PAUSE", 0)


def _engine(*answers: BaseException | None) -> AsyncMock:
    engine = AsyncMock(spec=Engine)
    engine.call.side_effect = answers
    return engine


def _crash_looping() -> Mock:
    return Mock(spec=Container, container_id="322d", restart_policy={"Name": "always"})


async def test_a_restart_policy_is_set_although_the_container_stops_at_that_moment() -> None:
    engine = _engine(errors.classify(500, _STOPS), errors.classify(500, _STOPS), None)
    await containers.set_restart_policy(engine, _crash_looping(), containers.NO_RESTART)
    assert engine.call.await_count == 3


async def test_a_restart_policy_that_the_engine_keeps_refusing_is_tried_again_by_the_next_attempt() -> None:
    engine = _engine(*(errors.classify(500, _STOPS) for _ in range(20)))
    with pytest.raises(Postponed) as refused:
        await containers.set_restart_policy(engine, _crash_looping(), containers.NO_RESTART)
    assert refused.value.reason.code is Code.ENGINE_BUSY
    assert engine.call.await_count == 5
