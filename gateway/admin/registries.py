"""Registry logins: parse one, change one, log in with one."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.model.ecr import AwsIdentity, region_of
from gateway.model.errors import Failed, InvalidInput, Postponed, Unavailable
from gateway.model.registries import Login, Registration, Registry, RegistryType

if TYPE_CHECKING:
    from gateway.registry.client import RegistryClient

_LOGIN_TIMEOUT = 45.0  # seconds
_KEYS = frozenset({"access_key_id", "secret_access_key"})
_PAIR = frozenset({"username", "password"})


def parse_registration(fields: Mapping[str, Any]) -> Registration:
    """Return the registration; raises InvalidInput naming the field that is wrong."""
    registration = Registration.parse(fields)
    if registration.registry_type is RegistryType.ECR:
        from gateway.registry import ecr_tokens

        ecr_tokens.require_client()
    return registration


def changed(registry: Registry, sent: Mapping[str, Any]) -> Registration:
    """Return the registration with the fields that were sent in place of its own.

    Raises InvalidInput naming the field that is wrong, Unavailable where the stored login cannot be decrypted and no
    new one was sent.
    """
    if registry.unreadable is not None and not (sent.get("password") or sent.get("secret_access_key")):
        raise Unavailable(registry.unreadable)
    wanted = parse_registration({**_kept(registry, sent), **sent})
    _refuse_secret_for_another_registry(registry, wanted, sent)
    return wanted


def _refuse_secret_for_another_registry(registry: Registry, wanted: Registration, sent: Mapping[str, Any]) -> None:
    """Raises InvalidInput where a stored secret would be sent to a registry it was not given for.

    AWS keys may be sent to every registry of ECR.
    """
    if wanted.scope.domain == registry.scope.domain or wanted.login is None or registry.login is None:
        return
    if isinstance(wanted.login, AwsIdentity):
        kept = wanted.login.secret_access_key and not sent.get("secret_access_key") and not sent.get("password")
        if not kept or region_of(wanted.scope.domain) is not None:
            return
        field = "secretAccessKey"
    elif sent.get("password"):
        return
    else:
        field = "password"
    raise InvalidInput(
        f"the login was given for {registry.scope.domain}, and is not sent to {wanted.scope.domain}: "
        f"send {field} with registryUrl",
        field=field,
    )


def _kept(registry: Registry, sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that stay. A login of another type replaces the whole login."""
    fields = registry.fields()
    wanted = RegistryType(sent.get("registry_type") or registry.registry_type)
    if wanted is not registry.registry_type:
        fields = {name: fields[name] for name in ("registry_name", "registry_url", "image_prefix", "ca_certificate")}
    elif _PAIR & sent.keys():
        fields = {name: value for name, value in fields.items() if name not in _KEYS}
    return fields | {"registry_type": wanted}


async def log_in(client: "RegistryClient", registration: Registration) -> None:
    """Log in to the registry now.

    Raises InvalidInput where it rejects the login or does not answer, Unavailable where the stored login cannot be
    decrypted.
    """
    if isinstance(registration, Registry) and registration.unreadable is not None:
        raise Unavailable(registration.unreadable)
    domain = registration.scope.domain
    login = Login(registration.login, registration.login_description, ca_certificates=registration.ca_certificates)
    try:
        async with asyncio.timeout(_LOGIN_TIMEOUT):
            await client.log_in(domain, login)
    except Failed as error:
        raise InvalidInput(f"{error}. {error.reason.remedy}") from error
    except Postponed as error:
        raise InvalidInput(f"{error}. Check its address and the network, and try again") from error
    except TimeoutError as error:
        raise InvalidInput(f"{domain} has not taken or refused the login in {_LOGIN_TIMEOUT:.0f} s") from error
