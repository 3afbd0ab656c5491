"""Checks before a rollout, against answers that an engine gives only by chance."""

from typing import Any
from unittest.mock import AsyncMock

import pytest

from gateway.docker.container import preflight, probes
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine

_REMOVED = {
    "Id": "2d7b" * 16,
    "Names": [],
    "State": "running",
    "Ports": [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
}


async def test_a_removed_container_that_the_engine_still_lists_holds_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = AsyncMock(spec=Engine)
    engine.original = engine
    engine.call.return_value = [_REMOVED]
    monkeypatch.setattr(containers, "inspect", AsyncMock(return_value=None))
    monkeypatch.setattr(probes, "shares_host", AsyncMock(return_value=False))
    wanted: dict[str, Any] = {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}}

    await preflight.check(engine, wanted, [], serving=None)

    containers.inspect.assert_awaited_once_with(engine, _REMOVED["Id"])  # type: ignore[attr-defined] # a mock above
