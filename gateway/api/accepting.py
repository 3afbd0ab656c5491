"""The HTTP application of a process that accepts deliveries, and relays all other requests."""

from pathlib import Path

from aiohttp import web

from gateway.admin.context import Context
from gateway.api import relay
from gateway.api.base import with_ingress
from gateway.token_buckets import Buckets


def build_accepting(context: Context, *, buckets: Buckets, supervising: Path) -> web.Application:
    """Return the application of a process that accepts deliveries, and relays to the socket `supervising` the rest."""
    application = with_ingress(context, buckets)
    application[relay.SUPERVISING] = supervising
    application.cleanup_ctx.append(relay.open_session)
    application.add_routes([web.route("*", "/{path:.*}", relay.relay)])
    return application
