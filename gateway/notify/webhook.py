"""The receiver `webhook`: a signed request to a program, by https://www.standardwebhooks.com."""

from datetime import UTC, datetime
from http import HTTPStatus

import orjson

from gateway.model.webhook_signatures import sign
from gateway.notify.http import Answer, Sender
from gateway.notify.receiver import Delivery, Receipt, Undelivered, secret_of

_TRY_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


async def deliver(sender: Sender, delivery: Delivery) -> Receipt:
    """Tell the program. Raises Undelivered."""
    address = delivery.alert.address or {}
    url, now = secret_of(address, "url"), datetime.now(UTC)
    body = orjson.dumps(delivery.event.message())
    seconds = int(now.timestamp())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": delivery.event.event_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": sign(valid_secrets(delivery.alert.address, now), delivery.event.event_id, seconds, body),
    }
    answer = await sender.send("POST", url, headers=headers, body=body, allow_private=delivery.alert.allow_private)
    raise_for_status(answer)
    return Receipt(answer.status)


def valid_secrets(address: object, now: datetime) -> list[str]:
    """Return the secrets to sign with: the present one, then a previous one that is valid still."""
    listed = address.get("secrets", []) if isinstance(address, dict) else []
    return [
        one["secret"] for one in listed if one.get("until") is None or datetime.fromisoformat(one["until"]) > now
    ] or [secret_of({}, "secret")]


def raise_for_status(answer: Answer) -> None:
    """Raises Undelivered unless the answer is 2xx."""
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status == HTTPStatus.GONE:
        raise Undelivered("it answers 410: it wants nothing more, so the alert is turned off", status=status, gone=True)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        message = f"it answers {status}: redirects are not followed; set the address that it redirects to"
        raise Undelivered(message, status=status)
    down = status in _TRY_LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    raise Undelivered(f"it answers {status}", status=status, retry_after=answer.retry_after, down=down)
