"""settings.*: what clients ask before they begin."""

from importlib.metadata import PackageNotFoundError, version

from gateway.web.context import Context
from gateway.web.procedures._procedure import Answer, Input, Procedure


async def health(_context: Context, _given: Input) -> Answer:
    return Answer({"status": "ok"})


async def get_version(_context: Context, _given: Input) -> Answer:
    try:
        return Answer(f"v{version('webhook-gateway')}")
    except PackageNotFoundError:  # run from a folder, as in the container image
        return Answer("v0.1.0")


PROCEDURES = [
    Procedure("settings.health", "query", Input, health),
    Procedure("settings.getDokployVersion", "query", Input, get_version),
]
