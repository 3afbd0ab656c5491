"""The inbox: what registries have sent, what the gateway made of it, and what that caused."""

from urllib.parse import urlencode

from aiohttp import web

from gateway.api.procedures._pagination import NEXT_HEADER
from gateway.dashboard.procedures import call, call_if_allowed, call_whole
from gateway.dashboard.rendering import page
from gateway.model.deliveries import Verdict

_PAGE = 50  # rows


async def show(request: web.Request) -> web.Response:
    """Show the deliveries, newest first."""
    query = request.query
    wanted = {name: query[name] for name in ("endpointId", "source", "verdict", "cursor") if query.get(name)}
    answered = await call_whole(request, "delivery.all", {"limit": _PAGE, **wanted})
    following = answered.headers.get(NEXT_HEADER)
    live = request.headers.get("HX-Target") == "inbox"
    webhooks = await call_if_allowed(request, "webhook.all") or []
    return page(
        request,
        "inbox_live.html" if live else "inbox.html",
        rows=answered.value,
        names={one["endpointId"]: one["name"] or one["source"] for one in webhooks},
        webhooks=webhooks,
        wanted=wanted,
        verdicts=[one.value for one in Verdict],
        older=urlencode({**wanted, "cursor": following}) if following else None,
    )


async def show_one(request: web.Request) -> web.Response:
    """Show one delivery with its headers and its body."""
    found = await call(request, "delivery.one", deliveryId=request.match_info["delivery_id"])
    return page(request, "delivery.html", one=found)
