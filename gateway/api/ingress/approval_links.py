"""/approvals/{token}: the link of an alert. GET shows what would be approved, with a form; only POST records an answer.

So a program that follows links, to preview them or to scan mail, approves nothing. The token authenticates the request,
and the page does not leak it: no referrer, no request to another address, no frame of another site.
"""

import asyncio
import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from aiohttp import web

from gateway.admin import approvals as admin
from gateway.admin.approvals import Given
from gateway.api.context import SHARE, sender
from gateway.api.notify import notify_workers
from gateway.api.request_body import read_body
from gateway.model.approvals import AnswerKind, Approval
from gateway.model.audit import CURRENT_ACTOR, Actor
from gateway.model.errors import Conflict, Forbidden, GatewayError, InvalidInput, NotFound, Throttled, TooLarge
from gateway.model.sanitize import safe_line
from gateway.store import applications
from gateway.store.database import statement
from gateway.token_buckets import OwnBuckets

if TYPE_CHECKING:
    import jinja2

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes
_RATE, _BURST = 1.0, 20.0  # requests a second of one address, and at once
_MAX_BODY = 16_384  # bytes
_MAX_FIELDS = 10
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_ANSWERED = {AnswerKind.APPROVE: "Approved", AnswerKind.REJECT: "Rejected"}

BUCKETS = web.AppKey("approval_links", OwnBuckets)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the page shows."""

    title: str
    message: str = ""
    approval: Approval | None = None
    name: str = ""
    asks: bool = False
    status: HTTPStatus = HTTPStatus.OK


async def show(request: web.Request) -> web.Response:
    """Respond with what the link is for, and a form. Nothing changes."""
    return await _respond(request, _show)


async def answer(request: web.Request) -> web.Response:
    """Record the answer of the form, and respond with what it did."""
    return await _respond(request, _answer)


async def _respond(request: web.Request, act: Any) -> web.Response:
    headers = {}
    try:
        if wait := request.app[BUCKETS].take(str(sender(request)), _RATE, _BURST):
            raise Throttled("too many requests: wait a moment", retry_after=wait)
        token = request.match_info["token"]
        if not _TOKEN.fullmatch(token):
            raise NotFound(admin.NO_LINK)
        shown = await act(request, token)
    except GatewayError as error:
        if isinstance(error, Throttled):
            headers["Retry-After"] = str(int(error.retry_after) + 1)
        title = "This link is not valid" if isinstance(error, NotFound) else "This was not done"
        known = isinstance(error, NotFound | Conflict | Forbidden | InvalidInput | Throttled)
        shown = _Shown(title, str(error) if known else "Try again in a moment.", status=error.status)
    return await asyncio.to_thread(_page, shown, headers)


async def _show(request: web.Request, token: str) -> _Shown:
    async with statement(request.app[SHARE]) as connection:
        approval = await admin.select_by_link(connection, token)
        names = await applications.select_names(connection, {approval.application_id})
    name = names.get(approval.application_id, approval.application_id)
    if approval.closed_at is not None:
        return _Shown("This is not asked any more", "Something else is asked now, or the deployment has ended.")
    return _Shown(f"Approve {safe_line(name)}?", approval=approval, name=safe_line(name), asks=True)


async def _answer(request: web.Request, token: str) -> _Shown:
    if (request.content_length or 0) > _MAX_BODY:
        raise TooLarge(f"a form has at most {_MAX_BODY} bytes")
    fields = _fields(await read_body(request))
    kind = next((one for one in _ANSWERED if fields.get("answer") == one), None)
    if kind is None:
        raise InvalidInput("use the buttons of the page", field="answer")
    given = Given(kind, fields.get("reason", ""), digest=fields.get("digest", ""))
    address = sender(request)
    actor = Actor("api", "a link in an alert", f"approval.{kind}", address=None if address is None else str(address))
    acting = CURRENT_ACTOR.set(actor)
    try:
        approval = await admin.answer_by_link(request.app[SHARE], token, given)
    finally:
        CURRENT_ACTOR.reset(acting)
    notify_workers(request.app)
    async with statement(request.app[SHARE]) as connection:
        names = await applications.select_names(connection, {approval.application_id})
    name = safe_line(names.get(approval.application_id, approval.application_id))
    return _Shown(f"{_ANSWERED[kind]}: {name}", "You can close this page.", approval, name)


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields of a form, each once. Raises InvalidInput."""
    try:
        parsed = parse_qs(body[:_MAX_BODY].decode(), max_num_fields=_MAX_FIELDS, strict_parsing=bool(body))
    except ValueError as error:
        raise InvalidInput("the form is not readable: use the buttons of the page") from error
    if any(len(values) != 1 for values in parsed.values()):
        raise InvalidInput("the form names a field twice: use the buttons of the page")
    return {name: values[0] for name, values in parsed.items()}


def _page(shown: _Shown, headers: dict[str, str]) -> web.Response:
    terms = None if shown.approval is None else admin.rule_of(shown.approval).terms
    html = _template().render(
        title=shown.title,
        message=safe_line(shown.message),
        approval=shown.approval,
        name=shown.name,
        asks=shown.asks,
        given=len(shown.approval.approvals(terms)) if shown.approval and terms else 0,
        needed=terms.count if terms else 0,
    )
    return web.Response(
        text=html,
        status=shown.status,
        content_type="text/html",
        charset="utf-8",
        headers={
            "Content-Security-Policy": _policy(),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Robots-Tag": "noindex",
            **headers,
        },
    )


@cache
def _template() -> "jinja2.Template":
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.api.ingress"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["line"] = safe_line
    return found.get_template("approval.html")


@cache
def _policy() -> str:
    """Return the policy: the page's own style, a form to the page itself, and nothing else."""
    style = _STYLE.search(_template().render(title="", message="", approval=None))
    allowed = b64encode(hashlib.sha256(style[1].encode()).digest()).decode() if style else ""
    return (
        f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
