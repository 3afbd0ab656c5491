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
from datetime import UTC, datetime, timedelta

import orjson
from aiohttp import web
from yarl import URL

from gateway.api.context import CONTEXT, SHARE
from gateway.api.rpc.auth import address_text
from gateway.config import Settings
from gateway.dashboard import sessions
from gateway.dashboard.oidc_issuer import groups_of, name_of, place_of, provider_of, redeem, verify
from gateway.dashboard.rendering import redirect
from gateway.dashboard.sessions import PREFIX, own_page
from gateway.model.audit import CURRENT_ACTOR, Actor
from gateway.model.errors import Forbidden, NotFound, Unauthenticated, UndecryptableSecret
from gateway.model.group_scopes import parse_groups, permission_of
from gateway.model.sanitize import safe_line
from gateway.store import oidc_people
from gateway.store.database import transaction

_COOKIE = "pushdeploy_oidc"
_PLACE = "dashboard:oidc:state"
_STATE_LIFETIME = 600  # seconds
_MAX_THEN = 1000  # characters, so that a browser keeps the cookie
_SIGNED_IN = timedelta(hours=12)


def is_set(settings: Settings) -> bool:
    return settings.oidc_issuer is not None


async def begin(request: web.Request) -> web.StreamResponse:
    """Send the browser to the issuer."""
    settings = _settings(request)
    provider = await provider_of(request)
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    then = own_page(request.query.get("then", ""))
    if len(then) > _MAX_THEN:
        then = PREFIX
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
    _set_cookie(request, response, sealed, _STATE_LIFETIME)
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
    provider = await provider_of(request)
    async with place_of(request):
        answered = await redeem(provider, settings, request.query.get("code", ""), verifier, _redirect_uri(settings))
        claims = await verify(provider, settings, str(answered.get("id_token", "")), nonce)
        groups = await groups_of(provider, settings, claims, str(answered.get("access_token", "")))
    permission = permission_of(groups, parse_groups(settings.oidc_groups))
    name = name_of(claims)
    person = settings.oidc_issuer or "", str(claims["sub"])
    actor = CURRENT_ACTOR.set(Actor("api", name, "sign in", None, address_text(request)))
    try:
        async with transaction(request.app[SHARE]) as connection:
            if permission is None:
                await oidc_people.expire_person(connection, *person)
        if permission is None:
            raise Forbidden(
                f"{name} is in no group that may use this gateway: GATEWAY_OIDC_GROUPS names those that may."
            )
        async with transaction(request.app[SHARE]) as connection:
            key_id = await oidc_people.upsert_person(
                connection,
                *person,
                name=name,
                permission=permission,
                expires_at=datetime.now(UTC) + _SIGNED_IN,
            )
    finally:
        CURRENT_ACTOR.reset(actor)
    session = await sessions.begin(request, key_id)
    response = redirect(then)
    _set_cookie(request, response, "", 0)
    sessions.set_cookie(request, response, session)
    return response


def _settings(request: web.Request) -> Settings:
    settings = request.app[CONTEXT].settings
    if not is_set(settings):
        raise NotFound("This gateway has no OpenID Connect: see GATEWAY_OIDC_ISSUER")
    return settings


def _cookie_name(request: web.Request) -> str:
    # A browser takes a cookie of this prefix only from the host itself: no neighbour's page can plant its own sign-in.
    return f"__Host-{_COOKIE}" if sessions.is_secure(request) else _COOKIE


def _set_cookie(request: web.Request, response: web.StreamResponse, value: str, lifetime: int) -> None:
    response.set_cookie(
        _cookie_name(request),
        value,
        max_age=lifetime,
        path="/",
        httponly=True,
        samesite="Lax",
        secure=sessions.is_secure(request),
    )


def _redirect_uri(settings: Settings) -> str:
    return f"{(settings.public_url or '').rstrip('/')}{PREFIX}/oidc/callback"


def _kept(request: web.Request) -> tuple[str, str, str, str]:
    """Return state, nonce, verifier and the page to go to; raises Unauthenticated."""
    try:
        sealed = base64.urlsafe_b64decode(request.cookies.get(_cookie_name(request), ""))
        state, nonce, verifier, then, began = orjson.loads(request.app[CONTEXT].vault.decrypt(sealed, _PLACE))
    except (ValueError, UndecryptableSecret) as error:
        raise Unauthenticated("This sign-in was begun elsewhere, or too long ago. Sign in again.") from error
    if not 0 <= time.time() - began <= _STATE_LIFETIME:
        raise Unauthenticated("This sign-in was begun too long ago. Sign in again.")
    return state, nonce, verifier, then
