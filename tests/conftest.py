"""Fixtures of the whole suite, each in a module of its own."""

pytest_plugins = (
    "tests.support.leftovers",
    "tests.support.real_parts",
    "tests.support.api_client",
    "tests.support.rollout_env",
    "tests.support.adoption_host",
    "tests.support.client_programs",
    "tests.support.docs_gateway",
)
