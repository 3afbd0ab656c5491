"""Messages to the service manager that started the gateway: that it serves, that it stops, and what is wrong.

systemd shows it in `systemctl status`. https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import os
import socket
from contextlib import suppress

from gateway.model.sanitize import safe_line

_LONGEST = 500  # characters of a status


def is_told() -> bool:
    """Whether there is a service manager that wants to be told."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def tell(status: str, *, ready: bool = False, stopping: bool = False) -> None:
    """Say how the gateway is, in one line, and that it now serves, or now stops. Without a manager, nothing is said."""
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    if address.startswith("@"):  # an abstract one
        address = f"\0{address[1:]}"
    lines = [f"STATUS={safe_line(status)[:_LONGEST]}", *["READY=1"] * ready, *["STOPPING=1"] * stopping]
    # A manager that is busy or gone is no reason to fail.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)
