"""The HTTP server: webhooks, deploy tokens, the API's procedures, documentation pages, health and metrics."""

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

import structlog
from aiohttp import web

from gateway.admin.context import Context
from gateway.admin.engine_status import Rollouts
from gateway.api import audit, health, notify, schema_check
from gateway.api.connections import error_body, error_code, error_response
from gateway.api.context import CONTEXT, SHARE, TRUSTED_PROXIES
from gateway.api.docs import pages
from gateway.api.ingress import deadline, deploy_token, key_fetcher, rejections, webhooks
from gateway.api.ingress.rate_limit import RATE_LIMITERS, RateLimiters
from gateway.api.ingress.repository_locks import REPOSITORY_LOCKS, KeyedLocks
from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.readiness import READINESS, Readiness
from gateway.api.rpc import auth, dispatch, handlers
from gateway.api.rpc.concurrency import CONCURRENCY_LIMITS, ConcurrencyLimits
from gateway.api.rpc.key_lookup import KEY_LOOKUP, KeyLookup
from gateway.config import Settings
from gateway.model.endpoints import parse_networks
from gateway.model.errors import GatewayError
from gateway.registry.client import RegistryClient
from gateway.store.database import Pool, share
from gateway.store.encryption import Vault

_LOG = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(
    pool: Pool, vault: Vault, rollouts: Rollouts, settings: Settings, registry: RegistryClient
) -> web.Application:
    """Return the application. It owns the API's background tasks and the connections that verify webhooks."""
    application = web.Application(
        client_max_size=settings.body_limit,
        middlewares=[_forbid_caching, _answer_errors, schema_check.reject_when_outdated],
    )
    application[dispatch.PROCEDURES] = {name.lower(): procedure for name, procedure in PROCEDURES.items()}
    application[CONTEXT] = Context(pool, vault, rollouts, settings, registry)
    half = max(1, settings.database_connections // 2)
    application[SHARE] = share(pool, half)
    application[RATE_LIMITERS] = RateLimiters(rate=settings.webhook_rate, slots=half)
    application[KEY_LOOKUP] = KeyLookup(partial(auth.select_valid, pool))
    application[CONCURRENCY_LIMITS] = ConcurrencyLimits()
    application[REPOSITORY_LOCKS] = KeyedLocks()
    application[READINESS] = Readiness()
    application[health.GAUGES] = health.Gauges()
    application[schema_check.SCHEMA_CHECK] = schema_check.SchemaCheck()
    application[TRUSTED_PROXIES] = parse_networks(settings.trusted_proxies.split(","))
    application.cleanup_ctx.extend(
        [
            schema_check.run_checker,
            notify.run_notifier,
            rejections.run_writer,
            audit.run_writer,
            key_fetcher.open_session,
            deadline.cancel_late_tasks,
        ]
    )
    application.add_routes(
        [
            web.post("/webhooks/{source}/{token}", webhooks.receive),
            web.options("/webhooks/{source}/{token}", webhooks.receive),
            web.get("/", pages.front),
            web.get("/api/docs", pages.api),
            web.get("/api/health", health.api_health),
            web.route("*", "/api/deploy/{token}", deploy_token.receive),
            web.route("*", "/api/trpc/{procedure:[^/]+}", handlers.trpc_call),
            web.route("*", "/api", handlers.rest_call),
            web.route("*", "/api/{procedure:.*}", handlers.rest_call),
            web.get("/healthz", health.healthz),
            web.get("/readyz", health.readyz),
            web.get("/metrics", health.metrics),
        ]
    )
    return application


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
