"""Reads the address of a receiver, and its secrets, as somebody enters them. It performs no I/O but for Apprise's."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from yarl import URL

from gateway.loading import load
from gateway.model.alerts import ReceiverKind
from gateway.model.errors import InvalidInput
from gateway.model.network_addresses import Reach, is_loopback, reach_of
from gateway.model.webhook_signatures import check_secret, new_secret
from gateway.notify import github, people

_LONGEST_URL = 2000  # characters
_TOKEN = re.compile(r"[!-~]{1,2000}")


@dataclass(frozen=True, slots=True)
class Entered:
    """What was entered. None: nothing, or what is known stays."""

    address: str | None = None
    #: of a webhook
    secret: str | None = None
    rotate: bool = False
    #: for how long a replaced secret stays valid
    overlap: timedelta = timedelta(days=1)
    # -- of a host of source code
    token: str | None = None
    app_id: str | None = None
    private_key: str | None = None
    repositories: tuple[str, ...] | None = None
    artifact_record: bool | None = None

    @property
    def has_login(self) -> bool:
        return self.token is not None or self.private_key is not None

    @property
    def is_empty(self) -> bool:
        return replace(self, overlap=Entered().overlap) == Entered()


@dataclass(frozen=True, slots=True)
class Address:
    """What is stored. `target` may be shown, `parts` not. `made` is a new secret, to be shown once."""

    target: str
    parts: Mapping[str, Any] = field(repr=False)
    made: str | None = field(default=None, repr=False)


async def read(
    kind: ReceiverKind, entered: Entered, *, allow_private: bool, before: Mapping[str, Any] | None = None
) -> Address:
    """Return the address, where `before` is known already. Raises InvalidInput, which names the field."""
    match kind:
        case ReceiverKind.APPRISE:
            url = entered.address or (before or {}).get("url")
            if not url:
                raise InvalidInput("an Apprise address is needed, such as mailto://user:password@host", field="address")
            await asyncio.to_thread(people.parse_address, url)
            return Address(f"{url.partition('://')[0].lower()}://", {"url": url})
        case ReceiverKind.WEBHOOK:
            return _read_webhook(entered, allow_private=allow_private, before=before or {})
        case ReceiverKind.GITHUB | ReceiverKind.GITLAB | ReceiverKind.GITEA:
            if entered.private_key:
                await load("joserfc.jwt")
            return _read_code_host(kind, entered, allow_private=allow_private, before=before or {})


USUAL_HOSTS = {ReceiverKind.GITHUB: "https://github.com", ReceiverKind.GITLAB: "https://gitlab.com"}


def _read_code_host(kind: ReceiverKind, entered: Entered, *, allow_private: bool, before: Mapping[str, Any]) -> Address:
    address = entered.address or before.get("url") or USUAL_HOSTS.get(kind)
    if not address:
        raise InvalidInput("the address of the host is needed, such as https://git.example.com", field="address")
    url = parse_url(address, allow_private=allow_private).origin()
    same_host = str(url) == before.get("url")
    if kind is not ReceiverKind.GITHUB and (entered.app_id or entered.private_key or entered.artifact_record):
        raise InvalidInput("appId, privateKey and artifactRecord are of GitHub", field="appId")
    secrets = {"token": entered.token, "appId": entered.app_id, "privateKey": entered.private_key}
    if not any(secrets.values()):
        if before and not same_host:
            raise InvalidInput("the token is for the former host alone: send the one of this host", field="token")
        secrets = {name: before.get(name) for name in secrets}
    _check_login(secrets)
    repositories = before.get("repositories") if entered.repositories is None else list(entered.repositories)
    record = before.get("artifactRecord") if entered.artifact_record is None else entered.artifact_record
    parts = {"url": str(url), **secrets, "repositories": repositories or [], "artifactRecord": bool(record)}
    return Address(shown(url), {name: value for name, value in parts.items() if value is not None})


def _check_login(secrets: Mapping[str, str | None]) -> None:
    app_id, private_key = secrets["appId"], secrets["privateKey"]
    if (secrets["token"] is None) == (app_id is None) or (app_id is None) != (private_key is None):
        raise InvalidInput("give a token, or appId and privateKey of a GitHub App", field="token")
    token = secrets["token"]
    if token is not None and not _TOKEN.fullmatch(token):
        raise InvalidInput("the token has characters that no token has", field="token")
    if app_id is not None and private_key is not None:
        github.make_jwt(app_id, private_key, datetime.now(UTC))


def _read_webhook(entered: Entered, *, allow_private: bool, before: Mapping[str, Any]) -> Address:
    address = entered.address or before.get("url")
    if not address:
        raise InvalidInput("the URL of the webhook is needed", field="address")
    url = parse_url(address, allow_private=allow_private)
    secrets, made = list(before.get("secrets", [])), None
    if entered.secret is not None or entered.rotate or not secrets:
        made = new_secret() if entered.secret is None else None
        current = check_secret(entered.secret) if entered.secret is not None else made
        until = (datetime.now(UTC) + entered.overlap).isoformat()
        previous = [{"secret": one["secret"], "until": until} for one in secrets[:1]] if entered.overlap else []
        secrets = [{"secret": current, "until": None}, *previous]
    return Address(shown(url), {"url": str(url), "secrets": secrets}, made)


def shown(url: URL) -> str:
    """Return what may be shown of a URL: the rest may have secrets."""
    port = "" if url.is_default_port() else f":{url.port}"
    return f"{url.scheme}://{url.host_subcomponent}{port}"


def parse_url(text: str, *, allow_private: bool) -> URL:
    """Return the URL. Raises InvalidInput where nothing may be sent there, as far as it says so itself."""

    def invalid(message: str) -> InvalidInput:
        return InvalidInput(message, field="address")

    try:
        url = URL(text)
        host, _ = url.host or "", url.port
    except ValueError as error:
        raise invalid("it is not a URL like https://hooks.example.com/deployed") from error
    if len(text) > _LONGEST_URL or url.scheme not in {"https", "http"} or not host or url.fragment:
        raise invalid("it is not a URL like https://hooks.example.com/deployed")
    if url.user or url.password:
        raise invalid("leave the login out of the URL: the receiver knows the gateway by its signature or its token")
    if url.scheme == "http" and not allow_private:
        raise invalid("the URL must be https://; http:// needs --allow-private (allowPrivate), for a trusted network")
    try:
        reach = Reach.PRIVATE if is_loopback(host) else reach_of(host)
    except ValueError:
        return url  # a name: it is checked each time it is resolved
    if reach is Reach.FORBIDDEN:
        raise invalid("it is a link-local or reserved address, where clouds keep the credentials of their machines")
    if reach is Reach.PRIVATE and not allow_private:
        raise invalid("it is an address of a private network: an unrestricted admin key may allow that: allowPrivate")
    return url
