"""Run a program that believes it is not root, since PostgreSQL refuses to run as root.

Run by path: `python -I -S unprivileged.py UID PROGRAM ARGUMENT…`. The program runs in a user namespace in which the
caller has the id UID. It can access what the caller can, and has no capability outside. No file needs other
permissions. Few modules are imported, since each start of the gateway waits for it.
"""

import ctypes
import os
import sys

_CLONE_NEWUSER = 0x10000000


def main(user: str, program: str, *arguments: str) -> None:
    outside = {"uid_map": os.getuid(), "gid_map": os.getgid()}
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER):
        why = os.strerror(ctypes.get_errno())
        sys.exit(
            f"PostgreSQL cannot run as root, and this system allows no user namespace ({why}). "
            "Run the gateway as another user, or give the directory to a user who can access it (chown), "
            "or set GATEWAY_DATABASE_URL"
        )
    _write("setgroups", "deny")
    for name, number in outside.items():
        _write(name, f"{user} {number} 1")
    os.execv(program, (program, *arguments))  # noqa: S606 - the purpose of this file


def _write(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib would take half of the time
        file.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
