"""The command line, run in the process of the tests: a Python that starts for each command takes a second of it."""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import cast
from unittest.mock import patch

import click
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.cli.demo import process
from gateway.cli.demo.process import GatewayProcess, Refused

#: held while a command runs: the runner replaces the standard streams and the environment of the whole process
_RUNS = threading.Lock()


class CommandLine(GatewayProcess):
    """A gateway whose server is a process and whose commands are not."""

    async def cli(self, *words: str, given: str = "") -> str:
        """Run a command and return what it printed; raises Refused with what it wrote to standard error."""
        done = await asyncio.to_thread(self._invoke, words, given)
        if done.exit_code != 0:
            raise Refused(done.stderr)
        return done.stdout.strip()

    def _invoke(self, words: tuple[str, ...], given: str) -> Result:
        # A command configures logging for its process, which here is the one of the tests.
        with _RUNS, patch("gateway.cli._logging.configure"):
            return CliRunner(env=self.environment).invoke(cast("click.Command", main), words, input=given)


def gateway_process(
    directory: Path, docker_host: str, settings: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> AbstractAsyncContextManager[GatewayProcess]:
    """Run a gateway as `gateway.cli.demo.process` does, with the commands beside it in this process."""
    return process.gateway_process(directory, docker_host, settings, prefix, program=CommandLine)
