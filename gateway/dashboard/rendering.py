"""Render templates, and serve the static files under names that change with their content."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from gateway.api.context import CONTEXT
from gateway.dashboard import formats, remedies, texts
from gateway.dashboard.procedures import may
from gateway.dashboard.sessions import PREFIX, SESSION

if TYPE_CHECKING:
    import jinja2

#: scripts and styles come from the gateway's own files alone
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_FILES = (
    "vendor/pico.classless.min.css",
    "dashboard.css",
    "vendor/htmx.min.js",
    "vendor/idiomorph-ext.min.js",
    "live.js",
    "log.js",
    "chart.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
    "icon.svg",
)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that browsers keep for ever: another content has another address."""

    address: str
    kind: str
    content: bytes
    compressed: bytes


@cache
def static_files() -> Mapping[str, StaticFile]:
    """Return the static files by name."""
    folder = files("gateway.dashboard") / "static"
    found: dict[str, StaticFile] = {}
    for path in _FILES:
        content = folder.joinpath(path).read_bytes()
        digest, name = hashlib.sha256(content).hexdigest()[:16], path.rpartition("/")[2]
        kind = _TYPES[name.rpartition(".")[2]]
        address = f"{PREFIX}/static/{digest}/{name}"
        found[name] = StaticFile(address, kind, content, gzip.compress(content, 9, mtime=0))
    return found


@cache
def _by_address() -> Mapping[str, StaticFile]:
    return {one.address: one for one in static_files().values()}


async def serve_static(request: web.Request) -> web.Response:
    """Respond with a static file."""
    if (found := _by_address().get(request.path)) is None:
        raise web.HTTPNotFound
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
    }
    body = found.content
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        body, headers["Content-Encoding"] = found.compressed, "gzip"
    return web.Response(body=body, content_type=found.kind, charset="utf-8", headers=headers)


@cache
def templates(language: str = texts.ENGLISH) -> "jinja2.Environment":
    """Return the templates of a language that there is."""
    import jinja2  # three megabytes, which a gateway whose pages nobody opens does not need

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.policies["ext.i18n.trimmed"] = True
    translate = texts.translator(language)
    # No text has a plural: none would do for all languages.
    environment.install_gettext_callables(  # type: ignore[attr-defined]  # of its i18n extension
        translate, lambda one, _other, _number: translate(one), newstyle=True
    )
    environment.filters.update(
        at=formats.at,
        ago=partial(formats.ago, translate=translate),
        lasting=partial(formats.lasting, translate=translate),
        seconds=formats.seconds,
        remedy=lambda elsewhere, code: translate(remedies.remedy(elsewhere, code)),
        setting=formats.setting,
        short_digest=formats.short_digest,
        image_name=formats.image_name,
        word=lambda value: translate(texts.word(value)),
    )
    environment.globals["static"] = lambda name: static_files()[name].address
    environment.globals["prefix"] = PREFIX
    environment.globals["language"] = language
    return environment


def language_of(request: web.Request) -> str:
    """Return the language of the pages that the browser asks for."""
    return texts.choose(request.headers.get("Accept-Language", ""), texts.languages())


def public_address(request: web.Request) -> str:
    """Return the address of the gateway, as those who send to it reach it."""
    return request.app[CONTEXT].settings.public_url or f"{request.scheme}://{request.host}"


def is_local(address: str) -> bool:
    """Tell whether only programs on this host reach an address."""
    host = urlsplit(address).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def redirect(to: str) -> web.Response:
    """Respond with another page to go to."""
    return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": to, "Cache-Control": "no-store"})


def page(request: web.Request, template: str, *, status: HTTPStatus = HTTPStatus.OK, **content: Any) -> web.Response:
    """Respond with a page. Its template finds the session, the address and what the caller may do."""
    session = request.get(SESSION)
    html = (
        templates(language_of(request))
        .get_template(template)
        .render(
            {
                "session": session,
                "path": request.path,
                "address": request.path_qs,
                "query": request.query,
                "may": lambda name: may(request, name),
                "now": datetime.now().astimezone(),
                **content,
            }
        )
    )
    response = web.Response(text=html, content_type="text/html", charset="utf-8", headers=HEADERS, status=status)
    response.enable_compression()
    return response
