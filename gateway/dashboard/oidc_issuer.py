"""What the gateway asks an issuer of OpenID Connect, and how it checks the answers.

https://openid.net/specs/openid-connect-core-1_0.html https://openid.net/specs/openid-connect-discovery-1_0.html
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from gateway.api.context import CONTEXT
from gateway.config import Settings
from gateway.loading import load
from gateway.model.errors import Unauthenticated, Unavailable
from gateway.model.sanitize import safe_line
from gateway.single_flight import SingleFlight

_METADATA_LIFETIME = 600.0  # seconds
_FAILED_PAUSE = 5.0  # seconds before an issuer that did not answer is asked again
_KEYS_PAUSE = 30.0  # seconds between two fetches of the keys, at least
_LEEWAY = 60  # seconds that the issuer's clock may differ
_MAX_BODY = 512 * 1024  # bytes
_TIMEOUT = aiohttp.ClientTimeout(total=10)
#: without "none", and without secrets that both sides know
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
_MAX_NAME = 100  # characters
_MAX_SUBJECT = 255  # characters, by the specification
_MAX_GROUPS = 1000
_MAX_KEYS = 100
_MOST_AT_ONCE = 20
#: public ones: a secret that both sides know proves nothing
_KEY_TYPES = frozenset({"RSA", "EC", "OKP"})


@dataclass(slots=True)
class Provider:
    """What the issuer says of itself, kept for a while."""

    metadata: Mapping[str, Any]
    fetched: float
    keys: Any = None
    keys_fetched: float = float("-inf")


@dataclass(slots=True)
class Issuer:
    """The provider, None before the first sign-in; and when and why it could not be fetched last."""

    provider: Provider | None = None
    failed: float = float("-inf")
    why: str = ""
    flights: SingleFlight[Provider] = field(default_factory=SingleFlight)
    #: who are signing in
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_AT_ONCE))


ISSUER: web.AppKey[Issuer] = web.AppKey("oidc_issuer", Issuer)


def place_of(request: web.Request) -> asyncio.Semaphore:
    """Return what one who signs in holds meanwhile; raises Unavailable where too many do: anybody may begin to."""
    places = request.app[ISSUER].places
    if places.locked():
        raise Unavailable("Too many people sign in at this moment. Sign in again.")
    return places


async def provider_of(request: web.Request) -> Provider:
    """Return what the issuer says of itself; raises Unavailable."""
    issuer, address = request.app[ISSUER], (request.app[CONTEXT].settings.oidc_issuer or "").rstrip("/")
    if issuer.provider is not None and time.monotonic() - issuer.provider.fetched < _METADATA_LIFETIME:
        return issuer.provider
    # Anybody may ask for this: an issuer that does not answer is asked seldom, and once for all.
    if time.monotonic() - issuer.failed < _FAILED_PAUSE:
        raise Unavailable(issuer.why)
    try:
        issuer.provider = await issuer.flights.join(address, lambda: _fetch_provider(address))
    except (Unavailable, Unauthenticated) as error:
        issuer.failed, issuer.why = time.monotonic(), str(error)
        raise Unavailable(issuer.why) from error
    return issuer.provider


async def _fetch_provider(issuer: str) -> Provider:
    metadata = await _fetch("GET", f"{issuer}/.well-known/openid-configuration")
    if str(metadata.get("issuer", "")).rstrip("/") != issuer:
        raise Unavailable(
            f"{issuer} says that it is the issuer {metadata.get('issuer')!r}: correct GATEWAY_OIDC_ISSUER"
        )
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        _check_address(str(metadata.get(name, "")), name)
    return Provider(metadata, time.monotonic())


async def redeem(
    provider: Provider, settings: Settings, code: str, verifier: str, redirect_uri: str
) -> Mapping[str, Any]:
    """Exchange the code for the tokens."""
    secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else ""
    fields = {
        "grant_type": "authorization_code",
        "code": code[:4096],
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
        "client_id": settings.oidc_client_id or "",
    }
    methods = provider.metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    authorization = ""
    if secret and "client_secret_basic" in methods:
        # https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1
        authorization = aiohttp.encode_basic_auth(quote_plus(fields["client_id"]), quote_plus(secret))
    elif secret:
        fields["client_secret"] = secret
    return await _fetch("POST", provider.metadata["token_endpoint"], fields=fields, authorization=authorization)


async def verify(provider: Provider, settings: Settings, token: str, nonce: str) -> Mapping[str, Any]:
    """Return the claims of the ID token, after all checks of section 3.1.3.7; raises Unauthenticated."""
    await load("joserfc.jwt")
    from joserfc import jwt
    from joserfc.errors import JoseError

    requests = jwt.JWTClaimsRegistry(
        leeway=_LEEWAY,
        iss={"essential": True, "value": provider.metadata["issuer"]},
        aud={"essential": True, "value": settings.oidc_client_id or ""},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    for last in (False, True):
        keys = await _keys(provider, fresh=last)
        try:
            found = jwt.decode(token, keys, algorithms=_ALGORITHMS)
            requests.validate(found.claims)
        except (JoseError, ValueError) as error:
            if not last:
                continue  # the issuer may have new keys
            raise Unauthenticated(
                f"The ID token of {settings.oidc_issuer} is not valid: {type(error).__name__}"
            ) from error
        claims: Mapping[str, Any] = found.claims
        audience = claims["aud"]
        several = isinstance(audience, list) and len(audience) > 1
        if claims.get("azp", None if several else settings.oidc_client_id) != settings.oidc_client_id:
            raise Unauthenticated("The ID token is for another client.")
        if not _is_subject(claims["sub"]):
            raise Unauthenticated("The subject of the ID token is no text of at most 255 characters.")
        return claims
    raise Unauthenticated("The ID token is not valid.")  # pragma: no cover - the loop returns or raises


async def _keys(provider: Provider, *, fresh: bool) -> Any:
    from joserfc.jwk import KeySet

    age = time.monotonic() - provider.keys_fetched
    if provider.keys is None or age > _METADATA_LIFETIME or (fresh and age > _KEYS_PAUSE):
        found = await _fetch("GET", provider.metadata["jwks_uri"])
        keys = [key for one in _signing_keys(found.get("keys")) if (key := _usable(one)) is not None]
        if not keys:
            raise Unavailable("The issuer has published no key that signs ID tokens.")
        provider.keys = KeySet(keys)
        provider.keys_fetched = time.monotonic()
    return provider.keys


def _signing_keys(found: object) -> list[Mapping[str, Any]]:
    many = found if isinstance(found, list) else []
    public = [one for one in many[:_MAX_KEYS] if isinstance(one, dict) and one.get("kty") in _KEY_TYPES]
    return [one for one in public if one.get("use", "sig") == "sig"]


def _usable(key: Mapping[str, Any]) -> Any:
    """Return the key; None for one of a kind that is not known here: such are to be ignored (RFC 7517, section 5)."""
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    try:
        return JWKRegistry.import_key(dict(key))
    except (JoseError, ValueError, TypeError, KeyError):
        return None


async def groups_of(provider: Provider, settings: Settings, claims: Mapping[str, Any], access_token: str) -> list[str]:
    """Return the person's groups: from the ID token, else from what the issuer says of them."""
    found = claims.get(settings.oidc_claim)
    if found is None and access_token and "userinfo_endpoint" in provider.metadata:
        address = _check_address(str(provider.metadata["userinfo_endpoint"]), "userinfo_endpoint")
        person = await _fetch("GET", address, authorization=f"Bearer {access_token}")
        # Another subject's answer must not be used: section 5.3.2.
        found = person.get(settings.oidc_claim) if person.get("sub") == claims["sub"] else None
    many = found if isinstance(found, list) else [found]
    return [one for one in many[:_MAX_GROUPS] if isinstance(one, str)]


def _is_subject(subject: object) -> bool:
    return isinstance(subject, str) and 0 < len(subject) <= _MAX_SUBJECT and subject.isprintable()


def name_of(claims: Mapping[str, Any]) -> str:
    """Return the verified address, else the name that the person may have chosen with the subject, which nobody can."""
    subject = safe_line(claims["sub"][:_MAX_NAME])
    email, chosen = claims.get("email"), claims.get("preferred_username")
    # Some issuers send the text "false", which is not a no by itself.
    if (
        isinstance(email, str)
        and email
        and (claims.get("email_verified") is True or claims.get("email_verified") == "true")
    ):
        return f"{safe_line(email[:_MAX_NAME])} (OpenID)"
    if isinstance(chosen, str) and chosen and chosen != subject:
        return f"{safe_line(chosen[:_MAX_NAME])}, {subject} (OpenID)"
    return f"{subject} (OpenID)"


def _check_address(address: str, name: str) -> str:
    """Return an address of the issuer; raises Unavailable unless what is sent there is encrypted, or stays here."""
    try:
        url = URL(address)
    except ValueError as error:
        raise Unavailable(f"the issuer's {name} is not an address") from error
    if url.scheme == "https" or (url.scheme == "http" and url.host in {"127.0.0.1", "localhost", "::1"}):
        return address
    raise Unavailable(f"the issuer's {name} is not an https address: {address[:200]!r}")


async def _fetch(
    method: str,
    address: str,
    *,
    fields: Mapping[str, str] | None = None,
    authorization: str = "",
) -> Mapping[str, Any]:
    """Return the JSON object at an address of the issuer; raises Unavailable, or Unauthenticated where it refuses."""
    _check_address(address, "address")
    headers = {"Accept": "application/json"} | ({"Authorization": authorization} if authorization else {})
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.request(method, address, data=fields, headers=headers, allow_redirects=False) as response,
        ):
            # A read returns what has come, which may be a part.
            body = b""
            while chunk := await response.content.readany():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise Unavailable(f"{URL(address).host} answers with more than {_MAX_BODY} bytes")
            status = response.status
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"{URL(address).host} does not answer: {type(error).__name__}") from error
    try:
        found = orjson.loads(body)
    except ValueError:
        found = None
    if status in {400, 401, 403}:
        why = found.get("error", status) if isinstance(found, dict) else status
        raise Unauthenticated(f"{URL(address).host} refused the sign-in: {safe_line(str(why)[:100])}")
    if status != 200 or not isinstance(found, dict):  # noqa: PLR2004
        raise Unavailable(f"{URL(address).host} answered {status} without what was asked for")
    return found
