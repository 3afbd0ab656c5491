"""settings.*: the health and the version of the gateway, and the OpenAPI document."""

import asyncio
from functools import cache
from typing import Any, Literal

from gateway.admin.context import Context
from gateway.admin.inputs import Input
from gateway.api.procedures._response import Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures, Surface
from gateway.version import VERSION

procedures = Procedures()


class Health(Response):
    """The gateway answers."""

    status: Literal["ok"]


@procedures.query("settings.health", gives=Health, access=KeyAccess.ANY_KEY)
async def health(_context: Context, _given: Input) -> Answer:
    """Check that the gateway answers."""
    return Answer(Health.make())


class Which(Input):
    surface: Surface = Surface.REST


@procedures.query("settings.getDokployVersion", gives=str, access=KeyAccess.ANY_KEY)
async def get_version(_context: Context, _given: Input) -> Answer:
    """Return the version of the gateway."""
    return Answer(f"v{VERSION}")


@procedures.query("settings.getOpenApiDocument", gives=dict[str, Any], access=KeyAccess.ANY_KEY)
async def get_document(context: Context, given: Which) -> Answer:
    """Return the OpenAPI 3.1 document of the REST surface or the tRPC surface."""
    return Answer(await asyncio.to_thread(described, given.surface, context.settings.public_url or ""))


@cache
def described(surface: Surface, base: str) -> dict[str, Any]:
    from gateway.api.procedures.catalog import PROCEDURES
    from gateway.api.rpc.openapi import document

    return document(PROCEDURES, surface, base=base.rstrip("/"), version=VERSION)
