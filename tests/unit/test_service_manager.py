"""What systemd is told of the gateway."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import service_manager
from gateway.cli import main
from gateway.model.errors import InvalidInput


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager, of each of both kinds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param == "file":
            listening.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        else:
            listening.bind("")  # the kernel chooses a name
            monkeypatch.setenv("NOTIFY_SOCKET", "@" + listening.getsockname()[1:].decode())
        listening.settimeout(5)
        yield listening


def test_a_status_is_one_line_whatever_is_in_it(manager: socket.socket) -> None:
    service_manager.notify("it is away\nREADY=1")
    service_manager.notify("Serving", ready=True)
    service_manager.notify("Stopping", stopping=True)
    assert manager.recv(4096) == b"STATUS=it is away\\nREADY=1"
    assert manager.recv(4096) == b"STATUS=Serving\nREADY=1"
    assert manager.recv(4096) == b"STATUS=Stopping\nSTOPPING=1"


def test_without_a_manager_or_with_one_that_is_gone_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ("", str(tmp_path / "nobody"), "@nobody-listens-here"):
        monkeypatch.setenv("NOTIFY_SOCKET", given)
        service_manager.notify("Serving", ready=True)


def test_a_start_that_fails_says_why(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CONCURENCY", "3")
    ended = CliRunner().invoke(main, ["serve"])
    assert isinstance(ended.exception, InvalidInput | SystemExit)
    told = manager.recv(4096).decode()
    assert told.startswith("STATUS=")
    assert "GATEWAY_CONCURENCY" in told
