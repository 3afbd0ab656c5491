"""Messages to the service manager that started the gateway: that it serves, that it stops, and what is wrong.

systemd shows it in `systemctl status`. https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import os
import socket
from contextlib import suppress

from gateway.model.sanitize import safe_line

_LONGEST = 500  # characters of a status


def is_there() -> bool:
    """Return whether a service manager started the gateway and takes messages."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(status: str, *, ready: bool = False, stopping: bool = False) -> None:
    """Send the state of the gateway in one line, and whether it now serves or stops. Without a manager, do nothing."""
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    if address.startswith("@"):  # an abstract one
        address = f"\0{address[1:]}"
    lines = [f"STATUS={safe_line(status)[:_LONGEST]}", *["READY=1"] * ready, *["STOPPING=1"] * stopping]
    # A manager that is busy or gone is no reason to fail.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)
