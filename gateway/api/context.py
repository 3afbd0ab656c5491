"""What request handlers reach through the application, and who sends a request."""

from aiohttp import web

from gateway.admin.context import Context
from gateway.model.endpoints import Address, Network, sender_address
from gateway.store.database import Pool

CONTEXT = web.AppKey("context", Context)
#: the share of the database connections that API calls and pages may hold, so that webhooks find others
SHARE: web.AppKey[Pool] = web.AppKey("share")
#: the networks whose X-Forwarded-For header is trusted
TRUSTED_PROXIES: web.AppKey[tuple[Network, ...]] = web.AppKey("trusted_proxies", tuple)


def sender(request: web.Request) -> Address | None:
    """Return the sender's address, as a trusted proxy forwards it; None where it is not known."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
    proxies = request.app[TRUSTED_PROXIES]
    return sender_address(request.remote, forwarded, proxies)
