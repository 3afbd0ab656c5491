"""A registry to try the gateway with: it outlives the command that starts it, and reports each push to the gateway."""

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import until
from gateway.cli.demo.registry import NotificationEndpoint, require_program, settings_of, write_config
from gateway.model.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from gateway.client import Gateway

_DEADLINE = 20.0  # seconds until it answers, or has ended


class TryRegistry:
    """The registry of this user at 127.0.0.1. Its directory has its configuration, its images and its process id."""

    def __init__(self, port: int) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or f"{os.environ.get('HOME') or Path.home()}/.cache"
        self._directory = Path(base) / "pushdeploy" / f"registry-{port}"
        self._config = self._directory / "config.yml"
        self._webhook = f"demo registry {port}"
        self._port = port
        self.image = f"127.0.0.1:{port}/web:latest"

    async def start(self, gateway: "Gateway") -> None:
        """Start it anew, with version v1 of its image. Raises Conflict where another program has its port."""
        program = require_program()
        await self.stop(gateway)
        if await self._answers():
            raise Conflict(f"another program uses port {self._port}: choose another one with --port")
        self._directory.mkdir(mode=0o700, parents=True)
        try:
            made = await gateway.call("webhook.create", {"source": "distribution", "name": self._webhook})
            base = gateway.url or (await gateway.call("status.address"))["listens"] or "http://127.0.0.1:8080"
            headers = {"Authorization": [f"Bearer {made['secret']}"]}
            reports = NotificationEndpoint(f"{base}{made['path']}", headers, only_pushes=True)
            settings = settings_of(self._directory / "images", f"127.0.0.1:{self._port}")
            write_config(self._directory, settings, [reports])
            await self._run(program)
            await push(Image("v1"), self.image)
        except BaseException:
            await self.stop(gateway)
            raise

    async def push(self, version: str, *, broken: bool) -> None:
        """Push a version of its image; a broken one exits at once. Raises Unavailable where no registry answers."""
        if not await self._answers():
            raise Unavailable(f"no registry answers at port {self._port}: start it with gateway demo registry")
        await push(Image(version, Behaviour.EXITS if broken else Behaviour.SERVES), self.image)

    async def stop(self, gateway: "Gateway") -> bool:
        """End it, and remove its images and its webhook; return whether there was one."""
        found = self._directory.exists()
        if (pid := self._pid()) is not None:
            os.kill(pid, signal.SIGTERM)
            await until(self._has_ended, within=_DEADLINE)
        if found:
            shutil.rmtree(self._directory)
        for one in await gateway.call("webhook.all", {"limit": 1000}):
            if one["name"] == self._webhook:
                await gateway.call("webhook.remove", {"endpointId": one["endpointId"]})
        return found

    async def _run(self, program: str) -> None:
        """Start the process, and wait until it answers. Raises Unavailable."""
        log = self._directory / "registry.log"
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - it outlives us; words of our own
                [program, "serve", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # it outlives the terminal
            )
        (self._directory / "pid").write_text(str(process.pid))

        async def is_ready() -> bool | None:
            if process.poll() is not None:
                raise Unavailable(f"docker-registry ended: {log.read_text()[-2000:]}")
            return await self._answers() or None

        await until(is_ready, within=_DEADLINE)

    def _pid(self) -> int | None:
        """Return its process id while it runs; not that of another program which has got the same since."""
        with suppress(OSError, ValueError):
            pid = int((self._directory / "pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return pid if os.fsencode(self._config) in words else None
        return None

    async def _has_ended(self) -> bool | None:
        """Tell whether its process is gone, and its port free for the next one."""
        return (self._pid() is None and not await self._answers()) or None

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True
