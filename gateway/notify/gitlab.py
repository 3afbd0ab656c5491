"""The receiver `gitlab`: commit statuses, deployments and environments of GitLab, by a token.

https://docs.gitlab.com/api/commits, /api/deployments, /api/environments
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from gateway.model.alerts import EventKind
from gateway.model.commits import Commit
from gateway.notify import commits
from gateway.notify.commits import Api
from gateway.notify.http import Answer, Sender
from gateway.notify.receiver import Delivery, Receipt, Undelivered, secret_of

_DESCRIPTION = 255  # characters
_PAGE = 100  # the most that a page has
_STATES: Mapping[EventKind, tuple[str, str]] = {  # of the deployment, or nothing; of the commit
    EventKind.STARTED: ("running", "running"),
    EventKind.WAITING: ("", "pending"),
    EventKind.SUCCEEDED: ("success", "success"),
    EventKind.UNCHANGED: ("success", "success"),
    EventKind.FAILED: ("failed", "failed"),
    EventKind.ROLLED_BACK: ("failed", "failed"),
    EventKind.TROUBLE: ("", "failed"),
    EventKind.CANCELLED: ("canceled", "canceled"),
}
_REFUSED = 400


async def deliver(sender: Sender, delivery: Delivery) -> Receipt:
    """Show the event at its commit. Raises Undelivered."""
    return await commits.deliver(sender, delivery, _tell)


API = commits.HostApi(
    lambda url: f"{url.origin()}/api/v4",
    lambda address: {"PRIVATE-TOKEN": secret_of(address, "token")},
    lambda _: "user",
)


async def _tell(sender: Sender, delivery: Delivery, commit: Commit, _address: Mapping[str, Any]) -> Receipt:
    api = API.connect(sender, delivery)
    report = _Report(api, delivery, commit, f"projects/{quote(commit.path, safe='')}")
    await report.deployment()
    await report.commit_status()
    await report.environment_url()
    return Receipt(201)


@dataclass(slots=True)
class _Report:
    api: Api
    delivery: Delivery
    commit: Commit
    project: str

    @property
    def _progress(self) -> dict[str, Any]:
        return self.delivery.progress

    async def deployment(self) -> None:
        state = _STATES[self.delivery.event.kind][0]
        if not state or self._progress.get("deploymentStatus"):
            return
        number = self._progress.get("deployment") or self.delivery.earlier.get("deployment") or await self._find()
        if number is None:
            self._progress["deployment"] = await self._create(state)
        else:
            self._progress["deployment"] = number
            path = f"{self.project}/deployments/{number}"
            lost = self.delivery.may_have_sent("deploymentStatus") or self.delivery.may_have_sent("deployment")
            known = (await self.api.call("GET", path)).json() if lost else None
            if not isinstance(known, dict) or known.get("status") != state:
                async with self.delivery.sending("deploymentStatus"):
                    _allow_repetition(await self.api.call("PUT", path, {"status": state}, accept=(_REFUSED,)))
        self._progress["deploymentStatus"] = state

    async def _find(self) -> int | None:
        """Return the deployment that an attempt at this event has made: GitLab has no place for an id of ours."""
        if not self.delivery.may_have_sent("deployment"):
            return None
        query = urlencode(
            {
                "environment": commits.environment_of(self.delivery),
                "order_by": "updated_at",  # GitLab refuses another order with updated_after
                "sort": "desc",
                "updated_after": self.delivery.event.created_at.isoformat(),
                "per_page": str(_PAGE),
            }
        )
        for one in await self.api.listed(f"{self.project}/deployments?{query}"):
            if one.get("sha") == self.commit.revision and isinstance(one.get("id"), int):
                return int(one["id"])
        return None

    async def _create(self, state: str) -> int:
        found = (await self.api.call("GET", self.project)).json()
        branch = found.get("default_branch") if isinstance(found, dict) else None
        body = {
            "environment": commits.environment_of(self.delivery),
            "sha": self.commit.revision,
            "ref": branch or "main",
            "tag": False,
            "status": state,
        }
        async with self.delivery.sending("deployment"):
            made = (await self.api.call("POST", f"{self.project}/deployments", body)).json()
        if not isinstance(made, dict) or not isinstance(made.get("id"), int):
            raise Undelivered("GitLab answers without the id of the deployment")
        return int(made["id"])

    async def commit_status(self) -> None:
        if self._progress.get("commitStatus"):
            return
        state, name = _STATES[self.delivery.event.kind][1], commits.context_of(self.delivery)
        described = commits.describe(self.delivery, _DESCRIPTION)
        newest = {"order_by": "id", "sort": "desc"}
        query = urlencode({"name": name, "all": "true", **newest, "per_page": str(_PAGE)})
        listed = f"{self.project}/repository/commits/{self.commit.revision}/statuses?{query}"
        sent = self.delivery.may_have_sent("commitStatus")
        if not (sent and await commits.is_shown(self.api, listed, state, described, size=_PAGE, name="name")):
            body = {"state": state, "name": name, "description": described}
            if self.delivery.url:
                body["target_url"] = self.delivery.url
            path = f"{self.project}/statuses/{self.commit.revision}"
            async with self.delivery.sending("commitStatus"):
                _allow_repetition(await self.api.call("POST", path, body, accept=(_REFUSED,)))
        self._progress["commitStatus"] = state

    async def environment_url(self) -> None:
        """Let the environment lead to the application. Sent again, it changes nothing."""
        url = self.delivery.event.content["application"].get("url")
        if not url or self._progress.get("environment") or self._progress.get("deploymentStatus") != "success":
            return
        query = urlencode({"name": commits.environment_of(self.delivery)})
        for one in await self.api.listed(f"{self.project}/environments?{query}"):
            if isinstance(one.get("id"), int) and one.get("external_url") != url:
                await self.api.call("PUT", f"{self.project}/environments/{one['id']}", {"external_url": url})
        self._progress["environment"] = True


def _allow_repetition(answer: Answer) -> None:
    """Raises Undelivered for a refusal, unless it is that the state is this one already."""
    if answer.status == _REFUSED and b"Cannot transition status" not in answer.body:
        commits.raise_for_status(answer, "the state")
