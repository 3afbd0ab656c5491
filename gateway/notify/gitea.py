"""The receiver `gitea`: commit statuses of Gitea and Forgejo, by a token. https://docs.gitea.com/api/next"""

from collections.abc import Mapping
from typing import Any

from gateway.model.alerts import EventKind
from gateway.model.commits import Commit
from gateway.notify import commits
from gateway.notify.http import Sender
from gateway.notify.receiver import Delivery, Receipt, secret_of

_DESCRIPTION = 255  # characters
_PAGE = 50  # the most that a page has, unless the host is configured otherwise
_STATES: Mapping[EventKind, str] = {
    EventKind.STARTED: "pending",
    EventKind.WAITING: "pending",
    EventKind.SUCCEEDED: "success",
    EventKind.UNCHANGED: "success",
    EventKind.FAILED: "failure",
    EventKind.ROLLED_BACK: "failure",
    EventKind.TROUBLE: "failure",
    EventKind.CANCELLED: "warning",
}


async def deliver(sender: Sender, delivery: Delivery) -> Receipt:
    """Show the event at its commit. Raises Undelivered."""
    return await commits.deliver(sender, delivery, _tell)


API = commits.HostApi(
    lambda url: f"{url.origin()}/api/v1",
    lambda address: {"Authorization": f"token {secret_of(address, 'token')}"},
    lambda _: "user",
)


async def _tell(sender: Sender, delivery: Delivery, commit: Commit, _address: Mapping[str, Any]) -> Receipt:
    if delivery.progress.get("commitStatus"):
        return Receipt(201)
    api = API.connect(sender, delivery)
    path, state = f"repos/{commit.path}/statuses/{commit.revision}", _STATES[delivery.event.kind]
    context, described = commits.context_of(delivery), commits.describe(delivery, _DESCRIPTION)
    listed = f"{path}?limit={_PAGE}&sort=recentupdate"
    if not (
        delivery.may_have_sent("commitStatus") and await commits.is_shown(api, listed, state, described, size=_PAGE)
    ):
        body = {"state": state, "context": context, "description": described}
        if delivery.url:
            body["target_url"] = delivery.url
        async with delivery.sending("commitStatus"):
            await api.call("POST", path, body)
    delivery.progress["commitStatus"] = state
    return Receipt(201)
