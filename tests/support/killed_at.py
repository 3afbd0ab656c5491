"""Run `gateway` and kill it with SIGKILL before its step of a number: a statement, or a file that gets its name.

    python -m tests.support.killed_at COUNT_FILE NUMBER PATTERN [WORD]…

Only statements with PATTERN count, and files with any. The number of steps up to the end is written into COUNT_FILE.
"""

import asyncio
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from gateway.cli import main

_ROOT = Path(__file__).parents[2]
_STATEMENTS = ("execute", "fetch", "fetchrow", "fetchval", "copy_to_table", "copy_from_query")


def _run(count_file: Path, number: int, pattern: str, words: list[str]) -> None:
    passed = itertools.count(1)

    def step() -> None:
        reached = next(passed)
        count_file.write_text(str(reached))
        if reached == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_statement(original: Callable[..., Any]) -> Callable[..., Any]:
        async def run(connection: Any, *given: Any, **options: Any) -> Any:
            if re.search(pattern, str(given[0])):
                step()
            return await original(connection, *given, **options)

        return run

    def before_file(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **options: Any) -> Any:
            step()
            return original(*given, **options)

        return run

    for name in _STATEMENTS:
        setattr(asyncpg.Connection, name, before_statement(getattr(asyncpg.Connection, name)))
    for name in ("replace", "link", "rename"):
        setattr(os, name, before_file(getattr(os, name)))
    main(words)


async def start_killed(
    count_file: Path, number: int, *words: str, environment: Mapping[str, str], pattern: str = ""
) -> asyncio.subprocess.Process:
    """Start a command that is killed there."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.killed_at", str(count_file), str(number), pattern, *words),
        cwd=_ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(count_file.parent), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def run_killed(
    count_file: Path, number: int, *words: str, environment: Mapping[str, str], pattern: str = ""
) -> tuple[int, str]:
    """Run a command and kill it there; return how it ended, and what it said."""
    process = await start_killed(count_file, number, *words, environment=environment, pattern=pattern)
    said, _ = await process.communicate()
    return await process.wait(), said.decode()


if __name__ == "__main__":
    _run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
