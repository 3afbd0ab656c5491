"""The receiver `github`: commits and deployments of GitHub, by a token or as a GitHub App.

https://docs.github.com/en/rest/deployments, /rest/commits/statuses, /rest/orgs/artifact-metadata

A state whose answer was lost is looked for before it is sent again, so each one is there once.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from yarl import URL

from gateway.loading import load
from gateway.model.alerts import EventKind
from gateway.model.commits import Commit
from gateway.model.errors import InvalidInput
from gateway.notify import commits
from gateway.notify.commits import Api
from gateway.notify.http import Sender
from gateway.notify.receiver import Delivery, Receipt, Undelivered, secret_of

_DESCRIPTION = 140  # characters
_PAGE = 100  # the most that a page has
_STATES: Mapping[EventKind, tuple[str, str]] = {  # of the deployment, of the commit
    EventKind.STARTED: ("in_progress", "pending"),
    EventKind.WAITING: ("queued", "pending"),
    EventKind.SUCCEEDED: ("success", "success"),
    EventKind.UNCHANGED: ("success", "success"),
    EventKind.FAILED: ("failure", "failure"),
    EventKind.ROLLED_BACK: ("failure", "failure"),
    EventKind.TROUBLE: ("failure", "failure"),
    EventKind.CANCELLED: ("inactive", "error"),
}
_JWT_LIFETIME, _JWT_SKEW = timedelta(minutes=9), timedelta(minutes=1)
_TOKEN_MARGIN = timedelta(minutes=5)
_MOST_TOKENS = 500
_MISSING, _GONE = 404, 410


async def deliver(sender: Sender, delivery: Delivery) -> Receipt:
    """Show the event at its commit. Raises Undelivered."""
    return await commits.deliver(sender, delivery, _tell)


def api_of(address: URL) -> str:
    """Return the address of the API of a GitHub: the public one, one of GHE.com, or an Enterprise Server."""
    host = address.host or ""
    if host == "github.com":
        return "https://api.github.com"
    if host.endswith(".ghe.com"):
        return f"https://api.{host}"
    return f"{address.origin()}/api/v3"


def _headers(token: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }


def _own_headers(address: Mapping[str, Any]) -> Mapping[str, str]:
    if not address.get("appId"):
        return _headers(secret_of(address, "token"))
    return _headers(make_jwt(str(address["appId"]), secret_of(address, "privateKey"), datetime.now(UTC)))


API = commits.HostApi(api_of, _own_headers, lambda address: "app" if address.get("appId") else "rate_limit")


async def _tell(sender: Sender, delivery: Delivery, commit: Commit, address: Mapping[str, Any]) -> Receipt:
    base = api_of(URL(secret_of(address, "url")))
    token = await _token(sender, delivery, base, commit, address)
    report = _Report(Api(sender, delivery, base, _headers(token)), delivery, commit, f"repos/{commit.path}")
    try:
        await report.deployment_status()
        await report.commit_status()
        note = await report.artifact_record() if address.get("artifactRecord") else ""
    except Undelivered as error:
        if error.status in {401, _MISSING}:  # the installation may have been changed meanwhile
            _TOKENS.forget(token)
        raise
    return Receipt(201, note)


@dataclass(slots=True)
class _Report:
    """What GitHub gets of one event. `progress` of the delivery has what it has accepted of it."""

    api: Api
    delivery: Delivery
    commit: Commit
    repository: str

    @property
    def _progress(self) -> dict[str, Any]:
        return self.delivery.progress

    async def deployment_status(self) -> None:
        if self._progress.get("deploymentStatus"):
            return
        state = _STATES[self.delivery.event.kind][0]
        found = self._progress.get("deployment") or self.delivery.earlier.get("deployment") or await self._find()
        number = found or await self._create()
        self._progress["deployment"] = number
        path = f"{self.repository}/deployments/{number}/statuses"
        if not (found and self.delivery.may_have_sent("deploymentStatus") and await self._has(path, state)):
            url = self.delivery.event.content["application"].get("url")
            body = {
                "state": state,
                "description": commits.describe(self.delivery, _DESCRIPTION),
                "auto_inactive": True,
                **({"log_url": self.delivery.url} if self.delivery.url else {}),
                **({"environment_url": url} if url and state == "success" else {}),
            }
            async with self.delivery.sending("deploymentStatus"):
                await self.api.call("POST", path, body)
        self._progress["deploymentStatus"] = state

    async def _has(self, path: str, state: str) -> bool:
        """Tell whether a deployment has this state."""
        async for one in self.api.since_the_event(f"{path}?per_page={_PAGE}", size=_PAGE):
            if one.get("state") == state:
                return True
        return False

    async def _find(self) -> int | None:
        """Return the deployment that an earlier event, or an attempt at this one, has made."""
        if self.delivery.event.kind is EventKind.STARTED and not self.delivery.may_have_sent("deployment"):
            return None
        query = urlencode(
            {
                "sha": self.commit.revision,
                "environment": commits.environment_of(self.delivery),
                "task": "deploy",
                "per_page": str(_PAGE),
            }
        )
        for one in await self.api.listed(f"{self.repository}/deployments?{query}"):
            sent = one.get("payload")
            if isinstance(sent, str):  # older servers give it back as text
                try:
                    sent = orjson.loads(sent)
                except orjson.JSONDecodeError:
                    continue
            if isinstance(sent, dict) and sent.get("deploymentId") == self.delivery.event.deployment_id:
                return int(one["id"])
        return None

    async def _create(self) -> int:
        body = {
            "ref": self.commit.revision,
            "task": "deploy",
            "auto_merge": False,
            "required_contexts": [],
            "payload": {"deploymentId": self.delivery.event.deployment_id},
            "environment": commits.environment_of(self.delivery),
            "description": commits.marker(self.delivery),
        }
        async with self.delivery.sending("deployment"):
            made = (await self.api.call("POST", f"{self.repository}/deployments", body)).json()
        if not isinstance(made, dict) or not isinstance(made.get("id"), int):
            raise Undelivered("GitHub answers without the id of the deployment")
        return int(made["id"])

    async def commit_status(self) -> None:
        if self._progress.get("commitStatus"):
            return
        state, described = _STATES[self.delivery.event.kind][1], commits.describe(self.delivery, _DESCRIPTION)
        listed = f"{self.repository}/commits/{self.commit.revision}/statuses?per_page={_PAGE}"
        sent = self.delivery.may_have_sent("commitStatus")
        if not (sent and await commits.is_shown(self.api, listed, state, described, size=_PAGE)):
            body = {"state": state, "context": commits.context_of(self.delivery), "description": described}
            if self.delivery.url:
                body["target_url"] = self.delivery.url
            async with self.delivery.sending("commitStatus"):
                await self.api.call("POST", f"{self.repository}/statuses/{self.commit.revision}", body)
        self._progress["commitStatus"] = state

    async def artifact_record(self) -> str:
        """Record where the image runs; return what there is to say. Sent again, it changes nothing."""
        deployment = self.delivery.event.content["deployment"]
        serves = self.delivery.event.kind in {EventKind.SUCCEEDED, EventKind.UNCHANGED}
        if self._progress.get("artifactRecord") or not serves or not deployment.get("digest"):
            return ""
        application = self.delivery.event.content["application"]
        body = {
            "name": str(deployment["image"]).partition("@")[0].rpartition(":")[0] or deployment["image"],
            "digest": deployment["digest"],
            "status": "deployed",
            "logical_environment": (application.get("environment") or "production")[:128],
            "deployment_name": f"{application['name']}-{application['applicationId']}"[:256],
            "github_repository": self.commit.name,
            "return_records": False,
        }
        path = f"orgs/{quote(self.commit.owner, safe='')}/artifacts/metadata/deployment-record"
        answer = await self.api.call("POST", path, body, accept=(_MISSING, _GONE))
        self._progress["artifactRecord"] = True
        return "" if answer.status < _MISSING else f"{self.commit.owner} keeps no deployment records"


# -- as a GitHub App


@dataclass(slots=True)
class _Tokens:
    """Tokens of installations, until shortly before they expire."""

    kept: dict[tuple[str, ...], tuple[str, datetime]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def get(self, key: tuple[str, ...], now: datetime) -> str | None:
        token, until = self.kept.get(key, ("", now))
        return token if until > now + _TOKEN_MARGIN else None

    def put(self, key: tuple[str, ...], token: str, until: datetime) -> None:
        if len(self.kept) >= _MOST_TOKENS:
            self.kept.clear()
        self.kept[key] = token, until

    def forget(self, token: str) -> None:
        self.kept = {key: one for key, one in self.kept.items() if one[0] != token}


_TOKENS = _Tokens()


async def _token(sender: Sender, delivery: Delivery, base: str, commit: Commit, address: Mapping[str, Any]) -> str:
    if not address.get("appId"):
        return secret_of(address, "token")
    await load("joserfc.jwt")
    private_key = secret_of(address, "privateKey")
    mark = hashlib.sha256(private_key.encode()).hexdigest()
    key = (base, str(address["appId"]), mark, commit.path, str(bool(address.get("artifactRecord"))))
    now = datetime.now(UTC)
    if (known := _TOKENS.get(key, now)) is not None:
        return known
    api = Api(sender, delivery, base, _headers(make_jwt(str(address["appId"]), private_key, now)))
    installation = (await api.call("GET", f"repos/{commit.path}/installation")).json()
    if not isinstance(installation, dict) or not isinstance(installation.get("id"), int):
        raise Undelivered("GitHub answers without the id of the App's installation")
    permissions = {"deployments": "write", "statuses": "write"}
    if address.get("artifactRecord"):
        permissions["artifact_metadata"] = "write"
    body = {"repositories": [commit.name], "permissions": permissions}
    made = (await api.call("POST", f"app/installations/{installation['id']}/access_tokens", body)).json()
    if not isinstance(made, dict) or not isinstance(made.get("token"), str):
        raise Undelivered("GitHub answers without a token of the App's installation")
    try:
        until = datetime.fromisoformat(str(made["expires_at"]))
    except (KeyError, ValueError):
        until = now
    _TOKENS.put(key, made["token"], until if until.tzinfo else until.replace(tzinfo=UTC))
    return str(made["token"])


def make_jwt(app_id: str, private_key: str, now: datetime) -> str:
    """Return the token by which an App proves itself: RS256, for less than ten minutes. Raises InvalidInput."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import RSAKey

    claims = {
        "iat": int((now - _JWT_SKEW).timestamp()),
        "exp": int((now + _JWT_LIFETIME).timestamp()),
        "iss": app_id,
    }
    try:
        return jwt.encode({"alg": "RS256"}, claims, RSAKey.import_key(private_key))
    except (ValueError, TypeError, JoseError) as error:
        raise InvalidInput("it is not the private key of a GitHub App, in PEM", field="privateKey") from error
