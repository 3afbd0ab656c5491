"""What an attempt knows of those before it: only a request whose answer was lost may be there already."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.model.alerts import Alert, Event, EventKind, ReceiverKind
from gateway.notify.receiver import Delivery, Undelivered

NOW = datetime(2026, 11, 30, tzinfo=UTC)
ALERT = Alert(
    alert_id="a",
    name="a",
    application_id=None,
    project_id=None,
    receiver=ReceiverKind.GITHUB,
    target="",
    events=(EventKind.STARTED,),
    quiet_hours=(),
    allow_private=False,
    enabled=True,
    created_at=NOW,
    set_at=None,
    failures=0,
    paused_until=None,
    last_error=None,
    delivered_at=None,
)
EVENT = Event("e", (EventKind.STARTED,), "app", "d", {}, NOW)
REQUESTS = ("deployment", "commitStatus")


async def attempt(number: int, progress: dict[str, Any], error: Exception | None = None) -> dict[str, Any]:
    """Send the first request, which ends so, and return what is stored then."""
    stored: list[dict[str, Any]] = []

    async def store(progress: Any) -> None:
        stored.append({**progress, "sending": dict(progress["sending"])})

    delivery = Delivery(ALERT, EVENT, progress, number, store=store)
    try:
        async with delivery.sending("deployment"):
            if error is not None:
                raise error
    except Undelivered:
        return delivery.progress
    except KeyboardInterrupt:
        return stored[-1]
    return delivery.progress


def lost(number: int, progress: dict[str, Any]) -> list[str]:
    delivery = Delivery(ALERT, EVENT, progress, number)
    return [one for one in REQUESTS if delivery.may_have_sent(one)]


@pytest.mark.parametrize(
    ("error", "looked_for"),
    [
        (None, []),
        (Undelivered("slow down", status=429), []),
        (Undelivered("not there", status=404), []),
        (Undelivered("oops", status=500), ["deployment"]),
        (Undelivered("no answer in time"), ["deployment"]),
        (KeyboardInterrupt(), ["deployment"]),  # a kill
    ],
)
async def test_only_a_request_whose_answer_was_lost_is_looked_for(
    error: Exception | None, looked_for: list[str]
) -> None:
    assert lost(2, await attempt(1, {}, error)) == looked_for


async def test_after_an_attempt_that_stored_nothing_everything_is_looked_for_until_it_is_known() -> None:
    assert lost(1, {}) == []
    assert lost(2, {}) == list(REQUESTS)
    assert lost(1, {"replayed": True}) == lost(2, {"restored": True}) == list(REQUESTS)
    refused = await attempt(1, {}, Undelivered("slow down", status=429))
    assert lost(3, refused) == list(REQUESTS)
    assert lost(4, await attempt(3, refused)) == list(REQUESTS)
