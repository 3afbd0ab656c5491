"""Sign in with an API key or a link, and sign out."""

from http import HTTPStatus

from aiohttp import web

from gateway.dashboard import sessions
from gateway.dashboard.rendering import PREFIX, page, redirect
from gateway.dashboard.sessions import SESSION
from gateway.model.errors import Throttled, Unauthenticated


async def show(request: web.Request) -> web.Response:
    """Show the form. A link of `gateway open` is shown as a button: a program that only follows links uses none up."""
    return page(
        request, "sign_in.html", link=request.query.get("link", ""), then=own_page(request.query.get("then", ""))
    )


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Sign in, and go on to the page that was asked for."""
    sessions.refuse_other_sites(request)
    fields = await request.post()
    then, link = own_page(str(fields.get("then", ""))), str(fields.get("link", ""))
    try:
        if link:
            session = await sessions.sign_in_by_link(request, link)
        else:
            session = await sessions.sign_in(request, str(fields.get("key", "")))
    except (Unauthenticated, Throttled) as error:
        return page(request, "sign_in.html", status=HTTPStatus(error.status), link="", then=then, problem=str(error))
    response = redirect(then)
    sessions.set_cookie(request, response, session)
    return response


async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session."""
    sessions.refuse_other_sites(request)
    session = request[SESSION]
    session.check_form((await request.post()).get("form"))
    await sessions.sign_out(request, session)
    response = redirect(f"{PREFIX}/sign-in")
    sessions.delete_cookie(request, response)
    return response


def own_page(address: str) -> str:
    """Return the address if it is one of the dashboard's own pages, else the overview."""
    own = address == PREFIX or address.startswith((f"{PREFIX}/", f"{PREFIX}?"))
    return address if own and address.isprintable() and "\\" not in address else PREFIX
