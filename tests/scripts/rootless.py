"""A rootless Docker Engine: dockerd of an ordinary user, below RootlessKit, by the script that Debian's docker.io has.

It changes files in /etc and a device for the mount namespace that it is started in, which has to be its own.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.cli.demo.process import WITH_US, until
from gateway.docker.engine.client import connect
from gateway.model.errors import RolloutError
from tests.scripts.debian import run

#: where a registry has to listen: the loopback of an engine in a network of its own is another one
REGISTRY = "10.99.0.1"
_SCRIPT = "/usr/share/docker.io/contrib/dockerd-rootless.sh"
_USER, _ID = "rootless", 12_345
# What a host has that is set up for rootless engines: a user with more ids, and a device for its network.
_PREPARE = f"""
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
ip link add registry type bridge
ip addr add {REGISTRY}/32 dev registry
ip link set registry up
cd "$0"
mkdir etc home run
touch /etc/subuid /etc/subgid
cp /etc/passwd /etc/group etc
echo '{_USER}:x:{_ID}:{_ID}::'"$0/home:/bin/sh" >> etc/passwd
echo '{_USER}:x:{_ID}:' >> etc/group
echo '{_USER}:200000:65536' | tee etc/subuid > etc/subgid
for name in passwd group subuid subgid; do mount --bind etc/$name /etc/$name; done
chown {_ID}:{_ID} . home run
chmod 700 run
"""


@asynccontextmanager
async def rootless_docker() -> AsyncIterator[str]:
    """Run it until the block is left; yields its address. Nothing of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="gateway-rootless-"))
    await run("sh", "-euc", _PREPARE, str(directory))
    host = f"unix://{directory}/run/docker.sock"
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": f"{directory}/home",
        "XDG_RUNTIME_DIR": f"{directory}/run",
    }
    # The program's process outlives a change of the user only with the signal set after it.
    as_user = ("setpriv", f"--reuid={_ID}", f"--regid={_ID}", "--clear-groups", *WITH_US)
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *as_user, _SCRIPT, "--insecure-registry", f"{REGISTRY}/32",
            env=environment, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:

        async def answers() -> bool | None:
            assert process.returncode is None, (directory / "log").read_text(encoding="utf-8")[-3000:]
            async with connect(host) as engine:
                with suppress(RolloutError):
                    await engine.identify()
                    return True
            return None

        await until(answers, within=60)
        yield host
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
