"""One deployment: its timeline, its cause, why it ended as it did, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from gateway.api.context import SHARE
from gateway.dashboard.formats import parse_moment
from gateway.dashboard.procedures import call, call_if_allowed, may
from gateway.dashboard.rendering import page
from gateway.model.deployments import Kind
from gateway.store import endpoints, serving
from gateway.store.database import statement

_WIDTH = 600.0  # of the timeline, in its own units
_LEAST = 2.0  # of a bar, so that it is seen
_SHOWN_WAIT = timedelta(milliseconds=50)
#: an attempt begins with one of these
_FIRST_STEPS = frozenset({"settle", "resolve"})


@dataclass(frozen=True, slots=True)
class Bar:
    """A step on the timeline: `left` and `width` of `_WIDTH`. `begins` is in milliseconds since the first."""

    step: str
    detail: str
    attempt: int
    left: float
    width: float
    begins: float
    milliseconds: float | None


async def show(request: web.Request) -> web.Response:
    """Show the page, or only its live part."""
    found = await call(request, "deployment.one", deploymentId=request.match_info["deployment_id"])
    app = await call(request, "application.one", applicationId=found["applicationId"])
    deliveries = [
        delivery
        for one in found["deliveries"][:20]
        if (delivery := await call_if_allowed(request, "delivery.one", deliveryId=one)) is not None
    ]
    senders = {one["endpointId"] for one in deliveries if one["endpointId"]} if may(request, "webhook.all") else set()
    async with statement(request.app[SHARE]) as connection:
        webhooks = await endpoints.select_endpoint_names(connection, senders) if senders else {}
    replaced = None
    if found["state"] == "succeeded" and found["kind"] in {Kind.DEPLOY, Kind.REDEPLOY, Kind.ROLLBACK}:
        async with statement(request.app[SHARE]) as connection:
            replaced = await serving.select_serving_deployment(
                connection, found["applicationId"], before=parse_moment(found["finishedAt"])
            )
    live = request.headers.get("HX-Target") == "deployment"
    return page(
        request,
        "deployment_live.html" if live else "deployment.html",
        one=found,
        app=app,
        deliveries=deliveries,
        webhooks=webhooks,
        replaced=replaced,
        bars=timeline(parse_moment(found["createdAt"]), found["steps"], datetime.now(UTC)),
        width=_WIDTH,
    )


def timeline(began: datetime, steps: Sequence[Mapping[str, Any]], now: datetime) -> list[Bar]:
    """Return the bars of the steps, and before each attempt the wait for it. An attempt begins with its first step.

    A step that follows one that never ended belongs to another attempt: the gateway was killed in between.
    """
    if not steps:
        return []
    times = [(parse_moment(one["startedAt"]), _end(one)) for one in steps]
    ended = max(end or now for _, end in times)
    scale = _WIDTH / max((ended - began).total_seconds(), 0.001)
    bars: list[Bar] = []

    def add(step: str, detail: str, starts: datetime, ends: datetime | None) -> None:
        begins, length = (starts - began).total_seconds(), ((ends or now) - starts).total_seconds()
        left = min(max(begins * scale, 0.0), _WIDTH - _LEAST)
        width = min(max(length * scale, _LEAST), _WIDTH - left)
        took = None if ends is None else length * 1000
        bars.append(Bar(step, detail, attempt, round(left, 1), round(width, 1), begins * 1000, took))

    attempt, last_end = 0, began
    for number, one in enumerate(steps):
        starts, ends = times[number]
        if number == 0 or times[number - 1][1] is None or one["step"] in _FIRST_STEPS:
            attempt += 1
            if starts - last_end > _SHOWN_WAIT:
                add("waited", "", last_end, starts)
        add(one["step"], one["detail"], starts, ends)
        last_end = ends or now
    return bars


def _end(step: Mapping[str, Any]) -> datetime | None:
    return None if step["finishedAt"] is None else parse_moment(step["finishedAt"])
