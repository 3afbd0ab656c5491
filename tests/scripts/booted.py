"""A Debian that is booted: systemd is the first process of namespaces of its own, and Debian's own engine its service.

It sees nothing of this machine's processes, network, files and control groups, and has no way out.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.cli.demo.process import WITH_US, until
from gateway.model.errors import Unavailable
from tests.scripts.debian import run

_INIT = "/lib/systemd/systemd"
# As systemd-nspawn does it: https://systemd.io/CONTAINER_INTERFACE/
_BOOT = """
mount --make-rprivate /
ip link set lo up
hostname pushdeploy-host
mount --bind "$0" "$0"
mount -t proc -o nosuid,nodev,noexec proc "$0/proc"
for name in kernel vm fs; do
    mount --bind "$0/proc/sys/$name" "$0/proc/sys/$name"
    mount -o remount,bind,ro,nosuid,nodev,noexec "$0/proc/sys/$name"
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$0/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$0/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid tmpfs "$0/dev"
for name in null zero full random urandom tty; do
    touch "$0/dev/$name"
    mount --bind "/dev/$name" "$0/dev/$name"
done
mkdir "$0/dev/pts" "$0/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$0/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$0/dev/shm"
ln -s pts/ptmx "$0/dev/ptmx"
ln -s /proc/self/fd "$0/dev/fd"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$0/run"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
cd "$0"
pivot_root . .
umount -l .
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin "$1" --log-target=journal
"""


class Booted:
    """A Debian in a directory, which can be booted again and again."""

    def __init__(self, tree: Path, log: Path) -> None:
        self._tree = tree
        self._log = log
        self._outer: asyncio.subprocess.Process | None = None
        self._init = 0
        self._group = _unified() / f"pushdeploy-booted-{os.getpid()}"

    async def boot(self) -> None:
        """Boot it, and wait until all its services run. Raises Unavailable."""
        self._group.mkdir(exist_ok=True)
        enter = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
        words = ("sh", "-euc", enter, "sh", str(self._group))
        apart = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--fork", "--kill-child=KILL")
        with self._log.open("ab") as log:
            self._outer = await asyncio.create_subprocess_exec(
                *WITH_US, *words, *apart, "sh", "-euc", _BOOT, str(self._tree), _INIT,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._init = await until(self._booting, within=60)
        await until(self._boots, within=120)

    async def _booting(self) -> int | None:
        if self._outer is None or self._outer.returncode is not None:
            raise Unavailable(f"no Debian with systemd: {self._log.read_text(errors='replace')[-2000:]}")
        return await asyncio.to_thread(_init_below, self._outer.pid)

    async def _boots(self) -> bool | None:
        try:
            state = await self.sh("systemctl is-system-running || true")
        except RuntimeError:
            return None
        if state == "degraded":
            raise Unavailable(await self.sh("systemctl --no-pager --failed; journalctl -b --no-pager -p err"))
        return state == "running" or None

    async def sh(self, script: str, **variables: str) -> str:
        """Run a script there as root would type it; raises RuntimeError with what it said."""
        spaces = ("--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--root", "--wd")
        plain = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        named = (f"{name}={value}" for name, value in {**plain, "LANG": "C.UTF-8", **variables}.items())
        return await run(
            "nsenter", f"--target={self._init}", *spaces, "env", "-i", *named, "bash", "-euo", "pipefail", "-c", script
        )

    async def halt(self) -> None:
        """End everything that runs there at once, as a machine that loses its power."""
        if self._outer is not None and self._outer.returncode is None:
            self._outer.send_signal(signal.SIGKILL)
            await self._outer.wait()
        await until(self._empty, within=30)

    async def _empty(self) -> bool | None:
        """Remove its control groups, the deepest first; they are empty once the last process has ended."""
        try:
            for one in sorted(self._group.rglob("*/"), reverse=True):
                one.rmdir()
            self._group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return None
        return True


def _init_below(pid: int) -> int | None:
    """Return the process below this one, once it is systemd."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
        if Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").startswith(_INIT):
            return int(child)
    return None


def _unified() -> Path:
    """Return where the second version of control groups is mounted. Raises Unavailable."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise Unavailable("no cgroup2 is mounted here")


@asynccontextmanager
async def booted(archive: Path, directory: Path) -> AsyncIterator[Booted]:
    """Boot a Debian from the archive of its tree, in the directory; nothing of it is left."""
    tree = directory / "debian"
    await asyncio.to_thread(tree.mkdir)
    await run("tar", "-C", str(tree), "-xf", str(archive))
    machine = Booted(tree, directory / "boot.log")
    try:
        await machine.boot()
        yield machine
    finally:
        await asyncio.shield(machine.halt())
        await asyncio.to_thread(shutil.rmtree, tree, ignore_errors=True)
