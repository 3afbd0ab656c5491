"""Fixtures of the whole suite, each in a module of its own."""

import structlog

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
    # By default each exception is drawn with all local variables, which takes longer than most tests do.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, plain])
