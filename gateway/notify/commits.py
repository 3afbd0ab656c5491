"""What the hosts of source code have in common: which commit gets a status, in which words, and how they refuse."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import orjson
from yarl import URL

from gateway.model.alerts import EventKind
from gateway.model.commits import Commit, is_among, is_of_host, parse_commit
from gateway.notify.http import Answer, Sender
from gateway.notify.receiver import Delivery, Receipt, Undelivered, secret_of

_LONGEST_PAUSE = 3600.0  # seconds
_NO_HEADER = 60.0  # seconds to wait where a rate limit is exceeded and no header says for how long
_SHORT_ID = 8  # characters of a deployment's id
_MOST_PAGES = 30  # of a list
_CLOCKS_DIFFER = timedelta(minutes=10)  # at most, the gateway's and a host's
_NEXT_PAGE = re.compile(r'rel="?next\b')
_WORDS: Mapping[EventKind, str] = {
    EventKind.STARTED: "Deploying",
    EventKind.WAITING: "Waiting at a gate",
    EventKind.SUCCEEDED: "Deployed",
    EventKind.UNCHANGED: "Runs already",
    EventKind.FAILED: "Failed",
    EventKind.ROLLED_BACK: "Rolled back",
    EventKind.TROUBLE: "Trouble after the rollout",
    EventKind.CANCELLED: "Cancelled",
}


@dataclass(slots=True)
class Api:
    """The API of one host, for one delivery. The token goes to this host alone."""

    sender: Sender
    delivery: Delivery
    base: str
    headers: Mapping[str, str] = field(repr=False)

    async def call(self, method: str, path: str, body: object = None, *, accept: tuple[int, ...] = ()) -> Answer:
        """Return an answer that is 2xx, or has one of the statuses `accept`. Raises Undelivered."""
        answer = await self.sender.send(
            method,
            f"{self.base}/{path}",
            headers={"Accept": "application/json", "Content-Type": "application/json", **self.headers},
            body=b"" if body is None else orjson.dumps(body),
            allow_private=self.delivery.alert.allow_private,
        )
        if answer.status not in accept:
            raise_for_status(answer, f"{method} {path.partition('?')[0]}")
        return answer

    async def listed(self, path: str) -> list[dict[str, Any]]:
        """Return the first page of a list."""
        return _entries(await self.call("GET", path))

    async def since_the_event(self, path: str, *, size: int) -> AsyncIterator[dict[str, Any]]:
        """Yield what a list has, at least all that was made since the event: pages of `size`, the newest first.

        A host that lists the oldest first is asked for all pages. There is a bound for what others put there meanwhile.
        """
        oldest = self.delivery.event.created_at - _CLOCKS_DIFFER
        for page in range(1, _MOST_PAGES + 1):
            answer = await self.call("GET", f"{path}&page={page}")
            found = _entries(answer)
            for one in found:
                yield one
            more = len(found) >= size or _NEXT_PAGE.search(answer.headers.get("Link", "")) is not None
            if not found or not more or _ends_before(found, oldest):
                return


def _entries(answer: Answer) -> list[dict[str, Any]]:
    found = answer.json()
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _ends_before(found: list[dict[str, Any]], oldest: datetime) -> bool:
    """Tell whether a page that begins with the newest ends with what was made before this time."""
    first, last = _made_at(found[0]), _made_at(found[-1])
    return first is not None and last is not None and last < oldest and (last < first or len(found) == 1)


def _made_at(one: Mapping[str, Any]) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(one.get("created_at")))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def raise_for_status(answer: Answer, what: str) -> None:
    """Raises Undelivered unless the answer is 2xx."""
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    said = answer.json()
    message = said.get("message") or said.get("error") if isinstance(said, dict) else None
    text = f"{what} answers {status}" + (f": {str(message)[:200]}" if message else "")
    if (wait := rate_limit(answer, datetime.now(UTC))) is not None:
        raise Undelivered(text, status=status, retry_after=wait)
    if status == HTTPStatus.UNAUTHORIZED:
        raise Undelivered(f"{text}; the token or the App is not valid: set it again", status=status, down=True)
    if status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
        raise Undelivered(f"{text}; the token may not do this there, or there is no such thing", status=status)
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
        raise Undelivered(text, status=status, final=True)
    raise Undelivered(text, status=status, down=status >= HTTPStatus.INTERNAL_SERVER_ERROR)


def rate_limit(answer: Answer, now: datetime) -> float | None:
    """Return the seconds to wait where the answer is that too much was asked, by any of the headers for that.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    if answer.status not in {HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return None
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if (wait := answer.retry_after) is not None:
        return wait
    for remaining, reset in (
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
        ("ratelimit-remaining", "ratelimit-reset"),
    ):
        at = headers.get(reset, "")
        if headers.get(remaining) == "0" and at.isascii() and at.isdigit():
            seconds = float(at[:12]) - now.timestamp()
            return min(max(seconds, 1.0), _LONGEST_PAUSE)
    return _NO_HEADER if answer.status == HTTPStatus.TOO_MANY_REQUESTS else None


@dataclass(frozen=True, slots=True)
class HostApi:
    """How the API of one kind of host is reached: its address, its headers, and what any valid token may ask for."""

    base: Callable[[URL], str]
    headers: Callable[[Mapping[str, Any]], Mapping[str, str]]
    own: Callable[[Mapping[str, Any]], str]

    def connect(self, sender: Sender, delivery: Delivery) -> Api:
        """Return the API for one delivery. Raises Undelivered."""
        address = delivery.alert.address or {}
        return Api(sender, delivery, self.base(URL(secret_of(address, "url"))), self.headers(address))


async def check(sender: Sender, delivery: Delivery, host: HostApi) -> Receipt:
    """See whether the host knows the token. Raises Undelivered."""
    api = host.connect(sender, delivery)
    # A token with the least rights may not read its own user; a wrong one gets 401.
    answer = await api.call("GET", host.own(delivery.alert.address or {}), accept=(HTTPStatus.FORBIDDEN,))
    return Receipt(answer.status)


Tell = Callable[[Sender, Delivery, Commit, Mapping[str, Any]], Awaitable[Receipt]]


async def deliver(sender: Sender, delivery: Delivery, tell: Tell) -> Receipt:
    """Tell the host of the commit that the image was built from, if it is the host that the token is for."""
    address = delivery.alert.address or {}
    if delivery.event.deployment_id is None or delivery.event.kind not in _WORDS:
        return Receipt(note="not sent: the event is about no commit")
    labels = None if delivery.find_labels is None else await delivery.find_labels()
    commit = parse_commit(labels or {})
    if commit is None:
        return Receipt(
            note="not sent: the commit of the image is not known: it has no labels org.opencontainers.image.source and "
            ".revision, and no push or call named it"
        )
    if not is_of_host(commit, URL(secret_of(address, "url"))):
        return Receipt(note=f"not sent: the image says that its source is at {commit.host}")
    if not is_among(commit, address.get("repositories") or []):
        return Receipt(note=f"not sent: {commit.path} is none of the alert's repositories")
    return await tell(sender, delivery, commit, address)


def describe(delivery: Delivery, longest: int) -> str:
    """Return the description of a state. It names the deployment, so that a state is found again."""
    event = delivery.event
    marked = f" ({marker(delivery)})"
    reason = event.content.get("reason") or {}
    words = _WORDS[event.kind] + (f": {reason['message']}" if reason.get("message") else "")
    words = " ".join(words.split())
    room = longest - len(marked)
    return (words if len(words) <= room else words[: room - 1] + "…") + marked


def marker(delivery: Delivery) -> str:
    """Return what names the deployment in descriptions."""
    return f"deployment {(delivery.event.deployment_id or '')[:_SHORT_ID]}"


async def is_shown(api: Api, path: str, state: str, description: str, *, size: int, name: str = "context") -> bool:
    """Tell whether the list of a commit's statuses has this one; `name` is the field of its name."""
    wanted = (context_of(api.delivery), description)
    async for one in api.since_the_event(path, size=size):
        if (one.get(name), one.get("description")) == wanted and state in {one.get("state"), one.get("status")}:
            return True
    return False


def context_of(delivery: Delivery) -> str:
    """Return the name of the commit status: one for each application."""
    return f"pushdeploy/{delivery.event.application_name}"[:255]


def environment_of(delivery: Delivery) -> str:
    """Return the name of the environment: one for each application, since a new deployment ends the former ones."""
    application = delivery.event.content["application"]
    return "/".join(filter(None, [application.get("environment"), application["name"]]))[:255]
