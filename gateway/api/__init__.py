"""How the gateway is asked: webhooks, procedures, status."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

import structlog
from aiohttp import web

from gateway.admin.context import Context
from gateway.admin.engine_status import Rollouts
from gateway.api import audit, health, notify, schema_check
from gateway.api.connections import Runner, error_body, limits_for, raise_file_limit, refusal, word
from gateway.api.context import CONTEXT, SHARE, TRUSTED_PROXIES
from gateway.api.docs import pages
from gateway.api.ingress import deadline, deploy_token, key_fetcher, rejections, webhooks
from gateway.api.ingress.rate_limit import GATES, Gates
from gateway.api.ingress.repository_locks import TURNS, Turns
from gateway.api.procedures import PROCEDURES
from gateway.api.readiness import READINESS, Readiness
from gateway.api.rpc import auth, dispatch, handlers
from gateway.api.rpc.concurrency import LANES, Lanes
from gateway.api.rpc.key_lookup import GUESSES, Guesses
from gateway.config import Settings
from gateway.model.endpoints import parse_networks
from gateway.model.errors import GatewayError
from gateway.registry.client import RegistryClient
from gateway.store.database import Pool, share
from gateway.store.encryption import Vault

__all__ = ["Runner", "build", "limits_for", "raise_file_limit"]

_LOG = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(
    pool: Pool, vault: Vault, rollouts: Rollouts, settings: Settings, registry: RegistryClient
) -> web.Application:
    """Return the application; it owns the task that notifies and what webhooks need outside."""
    application = web.Application(
        client_max_size=settings.body_limit, middlewares=[_keep_nowhere, _answer_errors, schema_check.refuse_outdated]
    )
    application[dispatch.PROCEDURES] = {name.lower(): procedure for name, procedure in PROCEDURES.items()}
    application[CONTEXT] = Context(pool, vault, rollouts, settings, registry)
    application[notify.WANTED] = asyncio.Event()
    half = max(1, settings.database_connections // 2)
    application[SHARE] = share(pool, half)
    application[GATES] = Gates(rate=settings.webhook_rate, slots=half)
    application[GUESSES] = Guesses(partial(auth.select_valid, pool))
    application[LANES] = Lanes()
    application[TURNS] = Turns()
    application[READINESS] = Readiness()
    application[health.LOOKING] = health.Looking()
    application[schema_check.OUTDATED] = schema_check.Outdated()
    application[TRUSTED_PROXIES] = parse_networks(settings.trusted_proxies.split(","))
    application.cleanup_ctx.extend(
        [
            schema_check.looking,
            notify.notifying,
            rejections.writing,
            audit.writing,
            key_fetcher.reaching_out,
            deadline.finishing,
        ]
    )
    application.add_routes(
        [
            web.post("/webhooks/{source}/{token}", webhooks.receive),
            web.options("/webhooks/{source}/{token}", webhooks.receive),
            web.get("/", pages.front),
            web.get("/api/docs", pages.api),
            web.get("/api/health", health.well),
            web.route("*", "/api/deploy/{token}", deploy_token.receive),
            web.route("*", "/api/trpc/{procedure:[^/]+}", handlers.trpc_call),
            web.route("*", "/api", handlers.rest_call),
            web.route("*", "/api/{procedure:.*}", handlers.rest_call),
            web.get("/healthz", health.alive),
            web.get("/readyz", health.ready),
            web.get("/metrics", health.metrics),
        ]
    )
    return application


@web.middleware
async def _keep_nowhere(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let no cache on the way keep an answer: keys, environments and addresses with secrets are in some."""
    answer = await handler(request)
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what no handler has: in JSON, without saying more than the sender needs."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return refusal(error)
    except GatewayError as error:
        return _error(error.status, type(error).__name__, str(error))
    except Exception:
        _LOG.exception("A request failed on a defect", method=request.method)
        status_code = HTTPStatus.INTERNAL_SERVER_ERROR
        return _error(status_code, word(status_code), "Internal error: the log has it")


def _error(status_code: HTTPStatus, code: str, message: str) -> web.Response:
    return web.Response(status=status_code, body=error_body(code, message), content_type="application/json")
