"""What people see who come with a browser. The pages tell nothing that is secret, so they need no key."""

import asyncio
from functools import cache

from aiohttp import web

from gateway.api.docs import render
from gateway.api.procedures import Surface
from gateway.api.procedures.settings import described

_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


async def front(_request: web.Request) -> web.Response:
    """Say what this is; clients look whether it is there at all."""
    return _shown(await asyncio.to_thread(_front))


async def api(_request: web.Request) -> web.Response:
    """Show the API as a page."""
    return _shown(await asyncio.to_thread(_api))


def _shown(page: render.Page) -> web.Response:
    headers = {**_HEADERS, "Content-Security-Policy": page.policy}
    return web.Response(text=page.html, content_type="text/html", charset="utf-8", headers=headers)


@cache
def _api() -> render.Page:
    return render.page("api.html", render.read(described(Surface.REST, "")))


@cache
def _front() -> render.Page:
    return render.page("front.html", {})
