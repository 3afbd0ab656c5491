"""The command line, run in the process of the tests: a Python that starts for each command takes a second of it."""

import asyncio
from typing import cast
from unittest.mock import patch

import click
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.demo.process import GatewayProcess, Refused


class CommandLine(GatewayProcess):
    """A gateway whose server is a process and whose commands are not."""

    async def cli(self, *words: str, given: str = "") -> str:
        """Run a command and return what it printed; raises Refused with what it wrote to standard error."""
        runner = CliRunner(env=self.environment)
        with patch("gateway.cli._logging.configure"):  # it would be the logging of the tests
            done = await asyncio.to_thread(runner.invoke, cast("click.Command", main), words, input=given)
        if done.exit_code != 0:
            raise Refused(done.stderr)
        return done.stdout.strip()
