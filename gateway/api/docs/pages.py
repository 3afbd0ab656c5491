"""The pages at / and /api/docs. They hold no secrets, so they need no API key."""

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.api.procedures.settings import described
from gateway.api.rpc.procedure import Surface

if TYPE_CHECKING:
    from gateway.api.docs.render import Page

_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


async def front(_request: web.Request) -> web.Response:
    """Respond with the front page, which clients also request to see whether the gateway is there."""
    return _respond(await asyncio.to_thread(_front))


async def api(_request: web.Request) -> web.Response:
    """Respond with the API's documentation as a page."""
    return _respond(await asyncio.to_thread(_api))


def _respond(page: "Page") -> web.Response:
    headers = {**_HEADERS, "Content-Security-Policy": page.policy}
    return web.Response(text=page.html, content_type="text/html", charset="utf-8", headers=headers)


@cache
def _api() -> "Page":
    from gateway.api.docs import render

    return render.render_page("api.html", render.template_context(described(Surface.REST, "")))


@cache
def _front() -> "Page":
    from gateway.api.docs import render

    return render.render_page("front.html", {})
