"""A real OpenSSH server on loopback, which accepts whatever environment a client would send."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.demo.process import WITH_US, free_port, until
from gateway.model.servers import Access

_SSHD = "/usr/sbin/sshd"  # it starts itself anew by its path, which must be absolute

_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/client.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AcceptEnv *
ForceCommand env >> {directory}/environment; DOCKER_HOST={docker_host} exec $SSH_ORIGINAL_COMMAND
"""


@dataclass
class SSHServer:
    """`environment` is the file that holds the variables of every command that was run."""

    access: Access
    environment: Path


def _prepare(directory: Path, port: int, docker_host: str) -> None:
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    config = _CONFIG.format(port=port, directory=directory, docker_host=docker_host)
    (directory / "sshd_config").write_text(config)
    Path("/run/sshd").mkdir(exist_ok=True)


@asynccontextmanager
async def ssh_server(directory: Path, docker_host: str) -> AsyncIterator[SSHServer]:
    """Run one until the block is left; the Docker client that is logged in to reaches the engine at `docker_host`."""
    port = free_port()
    await asyncio.to_thread(_prepare, directory, port, docker_host)
    with (directory / "sshd.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *WITH_US, _SSHD, "-D", "-e", "-f", str(directory / "sshd_config"),
            stderr=log, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip

    async def listening() -> bool | None:
        assert process.returncode is None, (directory / "sshd.log").read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return None
        writer.close()
        await writer.wait_closed()
        return True

    try:
        assert shutil.which("docker")
        await until(listening)
        host_key = (directory / "host.pub").read_text()
        access = Access(
            f"ssh://root@127.0.0.1:{port}",
            ssh_key=(directory / "client").read_text(),
            known_hosts=f"[127.0.0.1]:{port} {host_key}",
        )
        yield SSHServer(access, directory / "environment")
    finally:
        process.terminate()
        await process.wait()
