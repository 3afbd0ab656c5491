"""What a request may reach."""

from aiohttp import web

from gateway.admin.context import Context
from gateway.model.endpoints import Network
from gateway.store.database import Pool

CONTEXT = web.AppKey("context", Context)
#: the connections that calls with a key may hold: pushes find others
SHARE: web.AppKey[Pool] = web.AppKey("share")
#: the networks whose X-Forwarded-For is believed
TRUSTED_PROXIES: web.AppKey[tuple[Network, ...]] = web.AppKey("trusted_proxies", tuple)
