"""Who is signed in: a cookie stands for a sign-in, and the sign-in for an API key.

The cookie's token is random; the database has its hash. A sign-in ends after a week, after twelve hours without use, by
signing out, and with its key. Its token is replaced every hour, by a page: a stream cannot set a cookie.

Forms carry a token that is derived from the part of the cookie's that stays, so that no other site can send one, and
that a form which was open meanwhile can still be sent.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta

from aiohttp import web
from yarl import URL

from gateway.api.context import CONTEXT, SHARE
from gateway.api.rpc.auth import authenticate_key
from gateway.model.api_keys import Caller
from gateway.model.errors import Forbidden, Unauthenticated
from gateway.store import sign_ins
from gateway.store.database import statement, transaction
from gateway.store.sign_ins import base_of

#: the addresses of all pages begin with it
PREFIX = "/dashboard"

_LIFETIME = timedelta(days=7)
_IDLE = timedelta(hours=12)
_ROTATED_AFTER = timedelta(hours=1)
_GRACE = timedelta(minutes=1)  # in which requests that are under way may still send the token before a rotation
_TOKEN_BYTES = 32
_SALT_BYTES = 16
_MAX_TOKEN = 200  # characters
_MAX_ADDRESS = 4000  # characters
_PLACE = "sign_ins:token"

#: a browser keeps a secure cookie of these hosts without TLS, too
_TRUSTED_WITHOUT_TLS = frozenset({"localhost", "127.0.0.1", "::1"})

_COOKIE = "pushdeploy_session"
#: a browser takes a cookie of this prefix only from the host itself, over TLS
_SECURE_COOKIE = f"__Host-{_COOKIE}"


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in, and the caller that it stands for."""

    caller: Caller
    token: str
    #: whether its token is to be replaced
    old: bool = False

    @property
    def form_token(self) -> str:
        """A token for a form, another one each time: compressed pages that show the same secret could reveal it."""
        salt = secrets.token_hex(_SALT_BYTES)
        return f"{salt}.{self._sign(salt)}"

    def check_form(self, sent: object) -> None:
        """Raises Forbidden unless the form was made for this session."""
        salt, _, proof = sent.partition(".") if isinstance(sent, str) else ("", "", "")
        if not hmac.compare_digest(proof.encode("utf-8", "surrogateescape"), self._sign(salt).encode()):
            raise Forbidden("This form is out of date. Go back, reload the page and send it again.")

    def _sign(self, salt: str) -> str:
        base, said = base_of(self.token).encode(), salt.encode("utf-8", "surrogateescape")
        return hmac.new(base, said, hashlib.sha256).hexdigest()


SESSION: web.RequestKey[Session] = web.RequestKey("session", Session)


def is_secure(request: web.Request) -> bool:
    """Tell whether the browser reaches the gateway over TLS, itself or by a proxy."""
    return request.secure or (request.app[CONTEXT].settings.public_url or "").startswith("https://")


async def find(request: web.Request) -> Session | None:
    """Return the session of the request; None without a valid one."""
    if (token := _token(request)) is None:
        return None
    async with statement(request.app[SHARE]) as connection:
        found = await sign_ins.select_sign_in(connection, token, idle=_IDLE)
    if found is None:
        return None
    caller, age = found
    return Session(caller, token, old=age >= _ROTATED_AFTER)


async def rotate(request: web.Request, response: web.StreamResponse) -> None:
    """Replace the token of the request's session where that is due, and the response can tell the browser."""
    session = request[SESSION]
    if not session.old or response.prepared or request.method != "GET":
        return
    context = request.app[CONTEXT]
    replaced = f"{base_of(session.token)}.{context.vault.derive(session.token, _PLACE)}"
    async with transaction(request.app[SHARE]) as connection:
        if await sign_ins.rotate_sign_in(connection, session.token, replaced, within=_GRACE):
            set_cookie(request, response, Session(session.caller, replaced))


async def is_current(request: web.Request) -> bool:
    """Tell whether the session of a request that goes on is still valid, and means the same."""
    current = await find(request)
    return current is not None and current.caller == request[SESSION].caller


async def sign_in(request: web.Request, key: str) -> Session:
    """Sign in with an API key; raises Unauthenticated for a wrong one, Throttled after too many."""
    caller = await authenticate_key(request, key.strip()) if key.strip() else None
    if caller is None:
        raise Unauthenticated("There is no such API key, or it is revoked or has expired.")
    return await begin(request, caller.key_id)


async def sign_in_by_link(request: web.Request, link: str) -> Session:
    """Use up a link of `gateway open`; raises Unauthenticated where it was used or has expired."""
    async with transaction(request.app[SHARE]) as connection:
        key_id = await sign_ins.delete_link(connection, link[:_MAX_TOKEN])
    if key_id is None:
        raise Unauthenticated("This link was used already, or has expired. Get another one: gateway open")
    return await begin(request, key_id)


async def begin(request: web.Request, key_id: str) -> Session:
    """Begin a session for an API key; raises Unauthenticated when it is not valid."""
    token = f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{secrets.token_urlsafe(_TOKEN_BYTES)}"
    async with transaction(request.app[SHARE]) as connection:
        if before := _token(request):
            await sign_ins.delete_sign_in(connection, before)
        await sign_ins.insert_sign_in(connection, token, key_id, _LIFETIME)
        found = await sign_ins.select_sign_in(connection, token, idle=_IDLE)
    if found is None:
        raise Unauthenticated("The API key was revoked a moment ago.")
    return Session(found[0], token)


async def sign_out(request: web.Request, session: Session) -> None:
    async with transaction(request.app[SHARE]) as connection:
        await sign_ins.delete_sign_in(connection, session.token)


def _token(request: web.Request) -> str | None:
    token = request.cookies.get(_SECURE_COOKIE if is_secure(request) else _COOKIE, "")
    return token if 0 < len(token) <= _MAX_TOKEN else None


def own_page(address: str) -> str:
    """Return the address if it is one of the dashboard's own pages, else the overview."""
    if len(address) > _MAX_ADDRESS:
        return PREFIX
    own = address == PREFIX or address.startswith((f"{PREFIX}/", f"{PREFIX}?"))
    return address if own and address.isprintable() and "\\" not in address else PREFIX


def set_cookie(request: web.Request, response: web.StreamResponse, session: Session) -> None:
    secure = is_secure(request)
    response.set_cookie(
        _SECURE_COOKIE if secure else _COOKIE,
        session.token,
        max_age=int(_LIFETIME.total_seconds()),
        path="/",
        httponly=True,
        samesite="Lax",
        secure=secure,
    )


def delete_cookie(request: web.Request, response: web.StreamResponse) -> None:
    secure = is_secure(request)
    response.set_cookie(
        _SECURE_COOKIE if secure else _COOKIE, "", max_age=0, path="/", httponly=True, samesite="Lax", secure=secure
    )


def refuse_other_sites(request: web.Request) -> None:
    """Raises Forbidden for a form that another site has sent, which a browser says."""
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    if site not in {"same-origin", "none"} or (origin is not None and not _is_own(request, origin)):
        raise Forbidden("Another site has sent this form.")


def refuse_unsent_cookies(request: web.Request) -> None:
    """Raises Forbidden where the browser would not keep the cookie, and be asked to sign in again and again."""
    origin, public = request.headers.get("Origin", ""), request.app[CONTEXT].settings.public_url
    if is_secure(request) and origin.startswith("http://") and URL(origin).host not in _TRUSTED_WITHOUT_TLS:
        raise Forbidden(f"Sign in over TLS, as GATEWAY_PUBLIC_URL says: {public}{PREFIX}")


def _is_own(request: web.Request, origin: str) -> bool:
    public = URL(request.app[CONTEXT].settings.public_url or "")
    return origin.partition("://")[2] == request.host or (public.absolute and origin == str(public.origin()))
