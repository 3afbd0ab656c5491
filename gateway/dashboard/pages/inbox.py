"""The inbox: what registries have sent, what the gateway made of it, and what that caused."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from aiohttp import web

from gateway.api.context import SHARE
from gateway.api.procedures._pagination import NEXT_HEADER
from gateway.dashboard.procedures import call, call_if_allowed, call_whole, may
from gateway.dashboard.rendering import page
from gateway.model.deliveries import Verdict
from gateway.store import applications, endpoints
from gateway.store.arrivals import MOST_COUNTED, Arrivals, select_arrivals
from gateway.store.database import statement, transaction

_PAGE = 50  # rows
_OFFERED = 100  # webhooks
_HOURS = 48  # that the chart shows
_HOUR = timedelta(hours=1)
_SETTLES = timedelta(minutes=5)  # after the end of an hour, until nothing is added to it any more

#: what arrived in the hours that are over, by their beginnings
HOURS: web.AppKey[dict[datetime, Arrivals]] = web.AppKey("arrivals")


async def show(request: web.Request) -> web.Response:
    """Show the deliveries, newest first."""
    query = request.query
    wanted = {name: query[name] for name in ("endpointId", "source", "verdict", "cursor") if query.get(name)}
    answered = await call_whole(request, "delivery.all", {"limit": _PAGE, **wanted})
    following = answered.headers.get(NEXT_HEADER)
    live = request.headers.get("HX-Target") == "inbox"
    # The newest webhooks are offered. Named are those that the page shows.
    webhooks = [] if live else await call_if_allowed(request, "webhook.all", limit=_OFFERED) or []
    shown = {one["endpointId"] for one in answered.value} | {wanted.get("endpointId")}
    names = {}
    if may(request, "webhook.all"):
        async with statement(request.app[SHARE]) as connection:
            names = await endpoints.select_endpoint_names(connection, {one for one in shown if one})
    offered = {one["endpointId"]: one["name"] or one["source"] for one in webhooks}
    if (chosen := wanted.get("endpointId")) in names:
        offered[chosen] = names[chosen]
    return page(
        request,
        "inbox_live.html" if live else "inbox.html",
        rows=answered.value,
        names=names,
        offered=offered,
        wanted=wanted,
        verdicts=[one.value for one in Verdict],
        older=urlencode({**wanted, "cursor": following}) if following else None,
    )


async def show_one(request: web.Request) -> web.Response:
    """Show one delivery with its headers and its body."""
    found = await call(request, "delivery.one", deliveryId=request.match_info["delivery_id"])
    webhook = str(found["endpointId"] or "") if may(request, "webhook.all") else ""
    async with transaction(request.app[SHARE]) as connection:
        names = await applications.select_names(connection, {one["applicationId"] for one in found["deployments"]})
        webhooks = await endpoints.select_endpoint_names(connection, {webhook})
    return page(request, "delivery.html", one=found, names=names, webhook=webhooks.get(webhook))


async def show_hours(request: web.Request) -> web.Response:
    """Show how many pushes arrived in each of the last hours."""
    # It has the rights.
    await call(request, "delivery.all", limit=1)
    now, known = datetime.now(UTC), request.app[HOURS]
    current = now.replace(minute=0, second=0, microsecond=0)
    hours = [current - _HOUR * number for number in range(_HOURS)]
    async with statement(request.app[SHARE]) as connection:
        counted = await select_arrivals(connection, [hour for hour in hours if hour not in known])
    found = known | {one.hour: one for one in counted}
    known.clear()
    known.update((hour, found[hour]) for hour in hours if now - hour > _HOUR + _SETTLES)
    return page(request, "hours.html", rows=[found[hour] for hour in hours], most=MOST_COUNTED)
