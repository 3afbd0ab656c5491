"""The part of the HTTP application that every accepting process has: webhooks and deploy tokens, answers to errors."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from gateway.admin.context import Context
from gateway.api import notify, schema_check
from gateway.api.connections import error_body, error_code, error_response
from gateway.api.context import CONTEXT, TRUSTED_PROXIES
from gateway.api.ingress import deadline, deploy_token, key_fetcher, rejections, webhooks
from gateway.api.ingress.endpoint_cache import ENDPOINT_CACHE, EndpointCache
from gateway.api.ingress.pipeline import ACCEPTOR
from gateway.api.ingress.rate_limit import RATE_LIMITERS, RateLimiters
from gateway.api.ingress.repository_locks import REPOSITORY_LOCKS, KeyedLocks
from gateway.api.ingress.shortcut import Shortcut
from gateway.api.shortcut_connections import SHORTCUT
from gateway.model.endpoints import parse_networks
from gateway.model.errors import GatewayError
from gateway.queue.accept import Acceptor
from gateway.token_buckets import Buckets

_LOG = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def with_ingress(context: Context, buckets: Buckets) -> web.Application:
    """Return an application that accepts deliveries, and nothing else yet."""
    settings = context.settings
    application = web.Application(
        client_max_size=settings.body_limit,
        middlewares=[_forbid_caching, _answer_errors, schema_check.reject_when_outdated],
    )
    application[CONTEXT] = context
    application[RATE_LIMITERS] = RateLimiters(buckets, rate=settings.webhook_rate, slots=half_of_connections(context))
    application[REPOSITORY_LOCKS] = KeyedLocks()
    application[ENDPOINT_CACHE] = EndpointCache()
    application[ACCEPTOR] = Acceptor(context.pool)
    application[schema_check.SCHEMA_CHECK] = schema_check.SchemaCheck()
    application[SHORTCUT] = Shortcut(application, body_limit=settings.body_limit)
    application[TRUSTED_PROXIES] = parse_networks(settings.trusted_proxies.split(","))
    application.cleanup_ctx.extend(
        [
            schema_check.run_checker,
            notify.run_notifier,
            rejections.run_writer,
            key_fetcher.open_session,
            deadline.cancel_late_tasks,
        ]
    )
    application.add_routes(
        [
            web.post("/webhooks/{source}/{token}", webhooks.receive),
            web.options("/webhooks/{source}/{token}", webhooks.receive),
            web.route("*", "/api/deploy/{token}", deploy_token.receive),
        ]
    )
    return application


def half_of_connections(context: Context) -> int:
    """Return half of the connections to PostgreSQL: as many are left for others."""
    return max(1, context.settings.database_connections // 2)


@web.middleware
async def _forbid_caching(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep responses out of caches: some hold API keys, environments, or addresses with secrets."""
    response = await handler(request)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors that no handler answers, as JSON; what is a defect is logged and not shown to the caller."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return error_response(error)
    except GatewayError as error:
        return _error(error.status, error.published_code, str(error))
    except Exception:
        _LOG.exception("A request failed on a defect", method=request.method)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return _error(status, error_code(status), "Internal error: see the log of the gateway")


def _error(status: HTTPStatus, code: str, message: str) -> web.Response:
    return web.Response(status=status, body=error_body(code, message), content_type="application/json")
