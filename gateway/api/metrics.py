"""Metrics of requests and connections, served at /metrics."""

from itertools import product

from prometheus_client import Counter, Gauge

from gateway.model.endpoints import DEPLOY_SOURCE
from gateway.sources import SOURCES

DELIVERIES = Counter("gateway_deliveries_total", "Webhook requests.", ["source", "verdict"])
for _labels in product((*SOURCES, DEPLOY_SOURCE), ("queued", "ignored", "duplicate", "rejected", "refused_401")):
    DELIVERIES.labels(*_labels)  # there from the start, at 0
WRONG_KEYS = Counter("gateway_wrong_keys_total", "Requests with an invalid API key, or beyond the limit of those.")
THROTTLED_KEYS = Counter(
    "gateway_throttled_keys_total", "Requests with an unknown API key that were rejected without a query."
)
#: of processes that serve together, the sum
CONNECTIONS = Gauge("gateway_connections_open", "Open client connections.", multiprocess_mode="livesum")
CLOSED = Counter("gateway_connections_closed_total", "Client connections that the gateway closed, by reason.", ["why"])
