"""Metrics of requests and connections, served at /metrics."""

from prometheus_client import Counter, Gauge

DELIVERIES = Counter("gateway_deliveries_total", "Webhook requests.", ["source", "verdict"])
WRONG_KEYS = Counter("gateway_wrong_keys_total", "Requests with an invalid API key, or beyond the limit of those.")
THROTTLED_KEYS = Counter(
    "gateway_throttled_keys_total", "Requests with an unknown API key that were rejected without a query."
)
#: of processes that serve together, the sum
CONNECTIONS = Gauge("gateway_connections_open", "Open client connections.", multiprocess_mode="livesum")
CLOSED = Counter("gateway_connections_closed_total", "Client connections that the gateway closed, by reason.", ["why"])
