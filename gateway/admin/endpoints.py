"""Webhook endpoints: create one, and rotate its secret or its path."""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from gateway.admin.inputs import Id, Input
from gateway.model.endpoints import parse_networks, parse_repository_glob
from gateway.model.errors import InvalidInput
from gateway.model.reference import parse_domain
from gateway.sources import SOURCES, Source
from gateway.store import endpoints
from gateway.store.database import Connection
from gateway.store.encryption import Vault

DAY = 86_400  # seconds

_Secret = Annotated[str, Field(min_length=1, max_length=4096)]
_Words = Annotated[tuple[str, ...], Field(max_length=200)]


class CreateEndpoint(Input):
    source: str
    name: Annotated[str, Field(max_length=255)] = ""
    secret: _Secret | None = None
    host: str | None = None
    aliases: _Words = ()
    settings: dict[str, str] = Field(default_factory=dict)
    repositories: _Words = ()
    networks: _Words = ()
    rate: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Field(description="Requests per minute. Null: the gateway's setting."),
    ] = None


class UpdateEndpoint(Input):
    endpoint_id: Id
    name: Annotated[str, Field(max_length=255)] | None = None
    host: str | None = None
    aliases: _Words | None = None
    settings: dict[str, str] | None = None
    repositories: _Words | None = None
    networks: _Words | None = None
    rate: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Field(description="Requests per minute. Null: the gateway's setting."),
    ] = None


class RotateEndpoint(Input):
    endpoint_id: Id
    secret: _Secret | None = None
    path: Annotated[bool, Field(description="Replace the path, not the secret.")] = False
    grace: Annotated[
        int, Field(ge=0, le=30 * DAY, description="Seconds for which the previous path or secret stays valid.")
    ] = DAY


@dataclass(frozen=True, slots=True)
class CreatedEndpoint:
    """What the registry has to be given. Path and secret are known only here."""

    endpoint_id: str
    source: str
    path: str
    secret: str
    #: the header that the secret or signature is sent in; None where only the path is secret
    header: str | None


@dataclass(frozen=True, slots=True)
class RotatedEndpoint:
    """What the registry has to be given from now on; None for what stays."""

    endpoint_id: str
    source: str
    path: str | None
    secret: str | None
    header: str | None


def find_source(name: str) -> Source:
    """Return the webhook format of this name; raises InvalidInput."""
    if name not in SOURCES:
        raise InvalidInput(f"there is no source {name!r}; there are: {', '.join(sorted(SOURCES))}", field="source")
    return SOURCES[name]


async def create_endpoint(connection: Connection, vault: Vault, given: CreateEndpoint) -> CreatedEndpoint:
    """Store an endpoint, with a new secret unless one is given; raises InvalidInput."""
    source = find_source(given.source)
    source.check_settings(given.settings)
    if given.aliases and not given.host:
        raise InvalidInput("an alias stands for the registry's public host: give host too", field="aliases")
    secret = given.secret or secrets.token_urlsafe(32)
    endpoint_id, token = await endpoints.insert_endpoint(
        connection,
        vault,
        source=source.name,
        name=given.name or source.name,
        secret=secret,
        host=parse_domain(given.host) if given.host else None,
        aliases=given.aliases,
        settings=given.settings,
        repositories=[parse_repository_glob(one) for one in given.repositories],
        networks=parse_networks(given.networks),
        rate=given.rate,
    )
    return CreatedEndpoint(
        endpoint_id, source.name, _path(source, token), secret, header=source.header_with(given.settings)
    )


async def update_endpoint(connection: Connection, vault: Vault, given: UpdateEndpoint) -> None:
    """Change the fields that were sent; null clears one. Raises NotFound, and InvalidInput naming the field."""
    endpoint = await endpoints.select_endpoint_by_id(connection, vault, given.endpoint_id)
    sent = given.sent_fields()
    source = find_source(endpoint.source)
    settings = (given.settings or {}) if "settings" in sent else endpoint.settings
    source.check_settings(settings)
    host = endpoint.host
    if "host" in sent:
        host = parse_domain(given.host) if given.host else None
    aliases = (given.aliases or ()) if "aliases" in sent else sorted(endpoint.aliases)
    if aliases and not host:
        raise InvalidInput("an alias stands for the registry's public host: give host too", field="aliases")
    repositories = (given.repositories or ()) if "repositories" in sent else endpoint.repositories
    await endpoints.update_endpoint(
        connection,
        endpoint.endpoint_id,
        name=given.name or endpoint.name,
        host=host,
        aliases=aliases,
        settings=settings,
        repositories=[parse_repository_glob(one) for one in repositories],
        networks=parse_networks(given.networks or ()) if "networks" in sent else endpoint.networks,
        rate=given.rate if "rate" in sent else endpoint.rate,
    )


async def rotate_endpoint(connection: Connection, vault: Vault, given: RotateEndpoint) -> RotatedEndpoint:
    """Replace the secret; or the path, where that is asked for or is the only secret. The old one is valid for a time.

    Raises NotFound.
    """
    endpoint = await endpoints.select_endpoint_by_id(connection, vault, given.endpoint_id)
    source, grace = find_source(endpoint.source), timedelta(seconds=given.grace)
    path, secret = None, None
    if given.path or source.header_with(endpoint.settings) is None:
        path = _path(source, await endpoints.rotate_token(connection, endpoint.endpoint_id, grace))
    else:
        secret = given.secret or secrets.token_urlsafe(32)
        await endpoints.rotate_secret(connection, vault, endpoint, secret, grace)
    return RotatedEndpoint(
        endpoint.endpoint_id, source.name, path, secret, header=source.header_with(endpoint.settings)
    )


def _path(source: Source, token: str) -> str:
    return f"/webhooks/{source.name}/{token}"
