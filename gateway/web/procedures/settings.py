"""settings.*: what clients ask before they begin."""

from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from typing_extensions import TypedDict

from gateway.web.context import Context
from gateway.web.procedures._procedure import Answer, Input, Procedure


class Health(TypedDict):
    """That it answers."""

    status: Literal["ok"]


async def health(_context: Context, _given: Input) -> Answer:
    """Tell that it answers."""
    return Answer(Health(status="ok"))


async def get_version(_context: Context, _given: Input) -> Answer:
    """Tell which version this is."""
    try:
        return Answer(f"v{version('webhook-gateway')}")
    except PackageNotFoundError:  # run from a folder, as in the container image
        return Answer("v0.1.0")


PROCEDURES = [
    Procedure("settings.health", "query", Input, health, gives=Health),
    Procedure("settings.getDokployVersion", "query", Input, get_version, gives=str),
]
