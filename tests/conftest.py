"""Fixtures of the whole suite, each in a module of its own."""

import gc
import os
import signal
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest
import structlog

# Each worker imports and collects all tests. What that makes stays to the end, so nobody need look for garbage in it.
gc.disable()

# Engines start many short processes in Go: with one thread and a larger heap they take a sixth less of a processor.
os.environ.setdefault("GOMAXPROCS", "1")
os.environ.setdefault("GOGC", "400")

pytest_plugins = (
    "tests.support.leftovers",
    "tests.support.databases",
    "tests.support.real_parts",
    "tests.support.api_client",
    "tests.support.rollout_env",
    "tests.support.adoption_host",
    "tests.support.client_programs",
    "tests.support.docs_gateway",
)


def pytest_configure() -> None:
    # A shell lets what it starts in the background ignore Ctrl-C, and then all that tests start would ignore it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # By default each exception is drawn with all local variables, which takes longer than most tests do.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, plain],
        # Commands run in this process, and what one prints is what `sys.stdout` gets meanwhile.
        logger_factory=structlog.PrintLoggerFactory(sys.__stderr__),
    )


#: Files and directories whose tests wait the longest come first, so that all workers end at the same time.
_SLOW_FIRST = (
    "integration/rollout/test_swarm",
    "integration/rollout/",
    "e2e/",
    "docs/test_examples_run.py",
    "contract/",
    "integration/worker/",
    "integration/store/test_migrate.py",
    "support/",
    "integration/test_confidentiality.py",
    "integration/docker/",
    "integration/gates/",
    "unit/test_freezing.py",
    "unit/test_parsers_fuzzed.py",
    "unit/test_growth.py",
    "integration/",
    "docs/",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 20, 50)  # as a gateway does


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    @cache
    def rank(path: Path) -> int:
        name = path.relative_to(Path(__file__).parent).as_posix()
        return next((at for at, part in enumerate(_SLOW_FIRST) if name.startswith(part)), len(_SLOW_FIRST))

    items.sort(key=lambda item: rank(item.path))
