"""The HTTP server: webhooks, deploy tokens, the API's procedures, documentation pages, health and metrics."""

from functools import partial

from aiohttp import web

from gateway.admin.context import Context
from gateway.api import audit, health, relay
from gateway.api.base import half_of_connections, with_ingress
from gateway.api.context import SHARE
from gateway.api.docs import pages
from gateway.api.health import METRICS_OF_OTHERS, MetricsOfOthers, no_metrics
from gateway.api.ingress import approval_links
from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.readiness import READINESS, Readiness
from gateway.api.rpc import auth, dispatch, handlers
from gateway.api.rpc.concurrency import CONCURRENCY_LIMITS, ConcurrencyLimits
from gateway.api.rpc.key_lookup import KEY_LOOKUP, KeyLookup
from gateway.store.database import share
from gateway.token_buckets import Buckets, OwnBuckets


def build(
    context: Context, *, buckets: Buckets | None = None, accepting: MetricsOfOthers = no_metrics
) -> web.Application:
    """Return the application. It owns the API's background tasks and the connections that verify webhooks.

    `buckets` and `accepting` are for a gateway of several processes: what they share, and the metrics of the others.
    """
    application = with_ingress(context, buckets or OwnBuckets())
    application.middlewares.insert(0, relay.restore_sender)
    application[dispatch.PROCEDURES] = PROCEDURES
    application[SHARE] = share(context.pool, half_of_connections(context))
    application[KEY_LOOKUP] = KeyLookup(partial(auth.select_valid, context.pool))
    application[CONCURRENCY_LIMITS] = ConcurrencyLimits()
    application[approval_links.BUCKETS] = OwnBuckets()
    application[READINESS] = Readiness()
    application[health.GAUGES] = health.Gauges()
    application[METRICS_OF_OTHERS] = accepting
    application.cleanup_ctx.append(audit.run_writer)
    application.add_routes(
        [
            web.get("/", pages.front),
            web.get("/api/docs", pages.api),
            web.get("/api/health", health.api_health),
            web.route("*", "/api/trpc/{procedure:[^/]+}", handlers.trpc_call),
            web.route("*", "/api", handlers.rest_call),
            web.route("*", "/api/{procedure:.*}", handlers.rest_call),
            web.get("/approvals/{token}", approval_links.show),
            web.post("/approvals/{token}", approval_links.answer),
            web.get("/healthz", health.healthz),
            web.get("/readyz", health.readyz),
            web.get("/metrics", health.metrics),
        ]
    )
    return application
