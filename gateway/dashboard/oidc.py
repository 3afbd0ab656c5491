"""Sign in with OpenID Connect: the authorization code flow with PKCE. What a person may do follows from their groups.

https://openid.net/specs/openid-connect-core-1_0.html https://www.rfc-editor.org/rfc/rfc7636

The state of a sign-in under way is in an encrypted cookie, so that only the browser that began it can end it. A person
is the issuer's subject: each has one API key, which nobody sees, whose scope and expiry each sign-in renews.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from gateway.api.context import CONTEXT
from gateway.api.rpc.auth import address_text
from gateway.config import Settings
from gateway.dashboard import sessions
from gateway.dashboard.rendering import redirect
from gateway.dashboard.sessions import PREFIX, own_page
from gateway.model.audit import CURRENT_ACTOR, Actor
from gateway.model.errors import Forbidden, NotFound, Unauthenticated, Unavailable, UndecryptableSecret
from gateway.model.group_scopes import parse_groups, permission_of
from gateway.model.sanitize import safe_line
from gateway.store import oidc_people
from gateway.store.database import transaction

_COOKIE = "pushdeploy_oidc"
_PLACE = "dashboard:oidc:state"
_STATE_LIFETIME = 600  # seconds
_SIGNED_IN = timedelta(hours=12)
_METADATA_LIFETIME = 600.0  # seconds
_KEYS_PAUSE = 30.0  # seconds between two fetches of the keys, at least
_LEEWAY = 60  # seconds that the issuer's clock may differ
_MAX_BODY = 512 * 1024  # bytes
_TIMEOUT = aiohttp.ClientTimeout(total=10)
#: without "none", and without secrets that both sides know
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
_MAX_NAME = 100  # characters
_MAX_GROUPS = 1000


@dataclass(slots=True)
class Provider:
    """What the issuer says of itself, kept for a while."""

    metadata: Mapping[str, Any]
    fetched: float
    keys: Any = None
    keys_fetched: float = float("-inf")


#: the provider; None before the first sign-in
PROVIDER: web.AppKey[list[Provider]] = web.AppKey("oidc_provider")


def is_set(settings: Settings) -> bool:
    return settings.oidc_issuer is not None


# -- the two requests of a browser


async def begin(request: web.Request) -> web.StreamResponse:
    """Send the browser to the issuer."""
    settings = _settings(request)
    provider = await _provider(request)
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    then = own_page(request.query.get("then", ""))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    address = URL(provider.metadata["authorization_endpoint"]).update_query(
        {
            "response_type": "code",
            "client_id": settings.oidc_client_id or "",
            "redirect_uri": _redirect_uri(settings),
            "scope": settings.oidc_scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
    )
    kept = orjson.dumps([state, nonce, verifier, then, int(time.time())]).decode()
    sealed = base64.urlsafe_b64encode(request.app[CONTEXT].vault.encrypt(kept, _PLACE)).decode()
    response = redirect(str(address))
    response.set_cookie(
        _COOKIE,
        sealed,
        max_age=_STATE_LIFETIME,
        path=f"{PREFIX}/oidc",
        httponly=True,
        samesite="Lax",
        secure=sessions.is_secure(request),
    )
    return response


async def end(request: web.Request) -> web.StreamResponse:
    """Take the issuer's answer, and sign the person in; raises Unauthenticated, Forbidden and Unavailable."""
    settings = _settings(request)
    state, nonce, verifier, then = _kept(request)
    if not hmac.compare_digest(request.query.get("state", "").encode("utf-8", "surrogateescape"), state.encode()):
        raise Unauthenticated("This sign-in was begun elsewhere. Sign in again.")
    if error := request.query.get("error"):
        said = safe_line(f"{error} {request.query.get('error_description', '')}"[:300])
        raise Unauthenticated(f"{settings.oidc_issuer} did not sign you in: {said}")
    provider = await _provider(request)
    answered = await _redeem(provider, settings, request.query.get("code", ""), verifier)
    claims = await _verify(provider, settings, str(answered.get("id_token", "")), nonce)
    groups = await _groups(provider, settings, claims, str(answered.get("access_token", "")))
    permission = permission_of(groups, parse_groups(settings.oidc_groups))
    name = _name(claims)
    if permission is None:
        raise Forbidden(f"{name} is in no group that may use this gateway: GATEWAY_OIDC_GROUPS names those that may.")
    actor = CURRENT_ACTOR.set(Actor("api", name, "sign in", None, address_text(request)))
    try:
        async with transaction(request.app[CONTEXT].pool) as connection:
            key_id = await oidc_people.upsert_person(
                connection,
                settings.oidc_issuer or "",
                str(claims["sub"]),
                name=name,
                permission=permission,
                expires_at=datetime.now(UTC) + _SIGNED_IN,
            )
    finally:
        CURRENT_ACTOR.reset(actor)
    session = await sessions.begin(request, key_id)
    response = redirect(then)
    response.del_cookie(_COOKIE, path=f"{PREFIX}/oidc")
    sessions.set_cookie(request, response, session)
    return response


def _settings(request: web.Request) -> Settings:
    settings = request.app[CONTEXT].settings
    if not is_set(settings):
        raise NotFound("This gateway has no OpenID Connect: see GATEWAY_OIDC_ISSUER")
    return settings


def _redirect_uri(settings: Settings) -> str:
    return f"{(settings.public_url or '').rstrip('/')}{PREFIX}/oidc/callback"


def _kept(request: web.Request) -> tuple[str, str, str, str]:
    """Return state, nonce, verifier and the page to go to; raises Unauthenticated."""
    try:
        sealed = base64.urlsafe_b64decode(request.cookies.get(_COOKIE, ""))
        state, nonce, verifier, then, began = orjson.loads(request.app[CONTEXT].vault.decrypt(sealed, _PLACE))
    except (ValueError, UndecryptableSecret) as error:
        raise Unauthenticated("This sign-in was begun elsewhere, or too long ago. Sign in again.") from error
    if not 0 <= time.time() - began <= _STATE_LIFETIME:
        raise Unauthenticated("This sign-in was begun too long ago. Sign in again.")
    return state, nonce, verifier, then


# -- the issuer


async def _provider(request: web.Request) -> Provider:
    """Return what the issuer says of itself; raises Unavailable."""
    kept, issuer = request.app[PROVIDER], (request.app[CONTEXT].settings.oidc_issuer or "").rstrip("/")
    if kept and time.monotonic() - kept[0].fetched < _METADATA_LIFETIME:
        return kept[0]
    metadata = await _fetch("GET", f"{issuer}/.well-known/openid-configuration")
    if str(metadata.get("issuer", "")).rstrip("/") != issuer:
        raise Unavailable(
            f"{issuer} says that it is the issuer {metadata.get('issuer')!r}: correct GATEWAY_OIDC_ISSUER"
        )
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
        _check_address(str(metadata.get(name, "")), name)
    kept[:] = [Provider(metadata, time.monotonic())]
    return kept[0]


async def _redeem(provider: Provider, settings: Settings, code: str, verifier: str) -> Mapping[str, Any]:
    """Exchange the code for the tokens."""
    secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else ""
    fields = {
        "grant_type": "authorization_code",
        "code": code[:4096],
        "redirect_uri": _redirect_uri(settings),
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


async def _verify(provider: Provider, settings: Settings, token: str, nonce: str) -> Mapping[str, Any]:
    """Return the claims of the ID token, after all checks of section 3.1.3.7; raises Unauthenticated."""
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
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != settings.oidc_client_id:
            raise Unauthenticated("The ID token is for another client.")
        return claims
    raise Unauthenticated("The ID token is not valid.")  # pragma: no cover - the loop returns or raises


async def _keys(provider: Provider, *, fresh: bool) -> Any:
    from joserfc.jwk import KeySet

    age = time.monotonic() - provider.keys_fetched
    if provider.keys is None or age > _METADATA_LIFETIME or (fresh and age > _KEYS_PAUSE):
        found = await _fetch("GET", provider.metadata["jwks_uri"])
        try:
            provider.keys = KeySet.import_key_set({"keys": found["keys"]})
        except (KeyError, ValueError) as error:
            raise Unavailable("The issuer's keys cannot be read.") from error
        provider.keys_fetched = time.monotonic()
    return provider.keys


async def _groups(provider: Provider, settings: Settings, claims: Mapping[str, Any], access_token: str) -> list[str]:
    """Return the person's groups: from the ID token, else from what the issuer says of them."""
    found = claims.get(settings.oidc_claim)
    if found is None and access_token and "userinfo_endpoint" in provider.metadata:
        address = _check_address(str(provider.metadata["userinfo_endpoint"]), "userinfo_endpoint")
        told = await _fetch("GET", address, authorization=f"Bearer {access_token}")
        # Another subject's answer must not be used: section 5.3.2.
        found = told.get(settings.oidc_claim) if told.get("sub") == claims["sub"] else None
    many = found if isinstance(found, list) else [found]
    return [one for one in many[:_MAX_GROUPS] if isinstance(one, str)]


def _name(claims: Mapping[str, Any]) -> str:
    verified = claims.get("email") if claims.get("email_verified") else None
    found = next((one for one in (verified, claims.get("preferred_username"), claims["sub"]) if one), "")
    return safe_line(f"{found}"[:_MAX_NAME]) + " (OpenID)"


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
            body = await response.content.read(_MAX_BODY)
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
