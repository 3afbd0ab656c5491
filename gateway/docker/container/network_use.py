"""Reads from the kernel on which ports a container listens, and whether it has tried to use its network.

The kernel shows this in /proc/PID/net: https://man7.org/linux/man-pages/man5/proc_pid_net.5.html. The gateway can read
it if it sees the engine's processes: on the engine's host, and in a container only if that shares the host's PID
namespace.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from gateway.docker.engine.containers import Container

_PROC = Path("/proc")
_ADDRESS, _STATE, _LISTENS = 1, 3, "0A"  # two columns of a table of sockets, and the value of _STATE for a listener
_TABLES = (("tcp6", "sockstat6", "TCP6:"), ("tcp", "sockstat", "TCP:"))
_LINE = 150  # bytes: a line of a table, or enough of it
_NO_ROUTE, _DATAGRAMS = ("Ip", "OutNoRoutes"), ("Udp", "OutDatagrams")
_LOOPBACK = "lo"
_PACKETS_SENT = 9  # the column of /proc/PID/net/dev after the name


def is_visible(container: Container) -> bool:
    """Return whether the gateway sees the running container's process, whose control group names the container."""
    try:
        return container.container_id in (_PROC / str(container.pid) / "cgroup").read_text()
    except OSError:
        return False


def missing_listeners(container: Container, ports: Collection[int]) -> dict[int, bool]:
    """Return the TCP ports on which the container does not listen on all addresses, each with whether it does on some.

    Raises OSError and ValueError. Takes some milliseconds when a port is missing.
    """
    net, missing = _net(container), dict.fromkeys(ports, False)
    for table, summary, protocol in _TABLES:
        if missing and _counts_sockets(net / summary, protocol):
            for address, port in _listeners(net / table):
                if port in missing and address.strip("0"):
                    missing[port] = True
                elif missing.pop(port, None) is not None and not missing:
                    break
    return missing


def _counts_sockets(summary: Path, protocol: str) -> bool:
    """Return whether there is a socket of the protocol. If not, the table need not be read, which takes long."""
    if not summary.exists():
        return False  # no IPv6
    return not any(line.startswith(f"{protocol} inuse 0") for line in summary.read_text().splitlines())


def _listeners(table: Path) -> Iterator[tuple[str, int]]:
    """Yield the address and port of each listening socket. These come first, and the rest of the table is not read."""
    with table.open("rb", buffering=0) as lines:
        text, seen = "", 1
        while chunk := lines.read(_LINE):
            text += chunk.decode()
            for row in text.split("\n")[seen:]:
                columns = row.split()
                if len(columns) <= _STATE + 1:
                    break  # the rest of this row comes with the next chunk
                if columns[_STATE] != _LISTENS:
                    return
                seen += 1
                address, _, port = columns[_ADDRESS].partition(":")
                yield address, int(port, 16)


def was_refused_route(container: Container) -> bool:
    """Return whether the container has tried to reach an address without a route. Raises OSError and ValueError."""
    return _counters(_net(container))[_NO_ROUTE] > 0


def was_used(container: Container) -> bool:
    """Return whether the container has tried to reach anything or to resolve a name. Raises OSError and ValueError."""
    net = _net(container)
    counters = _counters(net)
    if counters[_NO_ROUTE] or counters[_DATAGRAMS] or any(_sent(net)):
        return True
    # Without a network, nothing counts what a raw or packet socket sends. So an open socket counts as use.
    return any(len((net / name).read_text().splitlines()) > 1 for name in ("raw", "packet"))


def _counters(net: Path) -> dict[tuple[str, str], int]:
    """Return the protocol counters of the kernel, by protocol and name: each has a line of names and a line of values.

    Raises ValueError if the kernel lacks a counter that is needed.
    """
    lines = (net / "snmp").read_text().splitlines()
    counters = {
        (names.partition(":")[0], name): int(value)
        for names, values in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(names.split()[1:], values.split()[1:], strict=True)
    }
    if not counters.keys() >= {_NO_ROUTE, _DATAGRAMS}:
        raise ValueError(f"{net / 'snmp'} does not count what cannot be sent")
    return counters


def _sent(net: Path) -> Iterator[int]:
    """Yield the number of packets sent through each interface except loopback."""
    for line in (net / "dev").read_text().splitlines()[2:]:
        interface, _, counters = line.partition(":")
        if interface.strip() != _LOOPBACK:
            yield int(counters.split()[_PACKETS_SENT])


def _net(container: Container) -> Path:
    if not is_visible(container):
        raise ProcessLookupError(f"the process {container.pid} of {container.name} cannot be seen from here")
    return _PROC / str(container.pid) / "net"
