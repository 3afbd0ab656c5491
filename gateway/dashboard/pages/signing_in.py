"""Sign in with an API key or a link, and sign out."""

from http import HTTPStatus

from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.dashboard import oidc, sessions
from gateway.dashboard.fields import read_fields
from gateway.dashboard.rendering import page, redirect
from gateway.dashboard.sessions import PREFIX, SESSION, own_page
from gateway.model.errors import Throttled, Unauthenticated

_MOST_BYTES = 16 * 1024  # of a form that anybody may send


async def show(request: web.Request) -> web.Response:
    """Show the form. A link of `gateway open` is shown as a button: a program that only follows links uses none up."""
    return _form(request, link=request.query.get("link", ""), then=own_page(request.query.get("then", "")))


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Sign in, and go on to the page that was asked for."""
    sessions.refuse_other_sites(request)
    fields = await read_fields(request, most=_MOST_BYTES)
    sessions.refuse_unsent_cookies(request)
    then, link = own_page(fields.get("then", "")), fields.get("link", "")
    try:
        if link:
            session = await sessions.sign_in_by_link(request, link)
        else:
            session = await sessions.sign_in(request, fields.get("key", ""))
    except (Unauthenticated, Throttled) as error:
        return _form(request, status=HTTPStatus(error.status), link="", then=then, problem=str(error))
    response = redirect(then)
    sessions.set_cookie(request, response, session)
    return response


async def confirm(_request: web.Request) -> web.Response:
    """Tell a page that has lost its stream that the person is still signed in."""
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session."""
    sessions.refuse_other_sites(request)
    session = request[SESSION]
    session.check_form((await read_fields(request, most=_MOST_BYTES)).get("form"))
    await sessions.sign_out(request, session)
    response = redirect(f"{PREFIX}/sign-in")
    sessions.delete_cookie(request, response)
    return response


def _form(request: web.Request, *, status: HTTPStatus = HTTPStatus.OK, **content: str) -> web.Response:
    with_oidc = oidc.is_set(request.app[CONTEXT].settings)
    return page(request, "sign_in.html", status=status, with_oidc=with_oidc, **content)
