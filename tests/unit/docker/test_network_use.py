"""Tests what the kernel's tables tell of a container's network."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.docker.container import network_use

_ID = "a1" * 32
_SNMP = """Ip: Forwarding OutNoRoutes
Ip: 1 {no_routes}
Udp: InDatagrams OutDatagrams
Udp: 0 {datagrams}
"""
_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0:      70       1    0    0    0     0          0         0      140 {packets}    0    0    0     0       0          0
"""  # noqa: E501 - as the kernel writes it


@pytest.fixture
def container() -> Any:
    return SimpleNamespace(container_id=_ID, pid=7, name="web")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr(network_use, "_PROC", tmp_path)

    def write(*, no_routes: int = 0, datagrams: int = 0, packets: int = 0, raw: str = "", packet: str = "") -> Path:
        net = tmp_path / "7" / "net"
        net.mkdir(parents=True)
        (net.parent / "cgroup").write_text(f"0::/system.slice/docker-{_ID}.scope\n")
        (net / "snmp").write_text(_SNMP.format(no_routes=no_routes, datagrams=datagrams))
        (net / "dev").write_text(_DEV.format(packets=packets))
        (net / "raw").write_text(f"  sl  local_address\n{raw}")
        (net / "packet").write_text(f"sk\n{packet}")
        return net

    return write


def test_a_container_that_has_sent_nothing_has_not_used_its_network(container: Any, proc: Callable[..., Path]) -> None:
    proc()
    assert not network_use.was_used(container)
    assert not network_use.was_refused_route(container)


@pytest.mark.parametrize(
    "seen",
    [{"no_routes": 1}, {"datagrams": 1}, {"packets": 1}, {"raw": "   1: 00000000:0001\n"}, {"packet": "0000 3\n"}],
    ids=lambda seen: next(iter(seen)),
)
def test_whatever_a_container_tries_to_send_shows(
    container: Any, proc: Callable[..., Path], seen: dict[str, Any]
) -> None:
    proc(**seen)
    assert network_use.was_used(container)
    assert network_use.was_refused_route(container) is ("no_routes" in seen)


def test_a_process_of_another_container_tells_nothing(container: Any, proc: Callable[..., Path]) -> None:
    (proc().parent / "cgroup").write_text("0::/system.slice/docker-b2.scope\n")
    assert not network_use.is_visible(container)
    with pytest.raises(ProcessLookupError):
        network_use.was_used(container)


def test_a_kernel_that_counts_something_else_tells_nothing(container: Any, proc: Callable[..., Path]) -> None:
    (proc() / "snmp").write_text("Ip: Forwarding\nIp: 1\n")
    with pytest.raises(ValueError, match="does not count"):
        network_use.was_used(container)


def test_a_container_that_does_not_run_is_not_visible(container: Any, proc: Callable[..., Path]) -> None:
    proc()
    container.pid = 0
    assert not network_use.is_visible(container)


def test_only_a_listener_at_all_addresses_counts(container: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_use, "is_visible", lambda _container: True)
    container.pid = os.getpid()
    with (
        socket.create_server(("", 0)) as everywhere,
        socket.create_server(("127.0.0.1", 0)) as somewhere,
        socket.socket() as nowhere,
    ):
        nowhere.bind(("", 0))
        ports = [one.getsockname()[1] for one in (everywhere, somewhere, nowhere)]
        assert network_use.missing_listeners(container, ports) == {ports[1]: True, ports[2]: False}
        assert network_use.missing_listeners(container, ports[:1]) == {}
