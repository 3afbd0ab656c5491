"""What is counted of requests; shown at /metrics."""

from prometheus_client import Counter, Gauge

DELIVERIES = Counter("gateway_deliveries_total", "Webhook requests.", ["source", "verdict"])
WRONG_KEYS = Counter(
    "gateway_wrong_keys_total", "Requests with an API key that is none, or was not looked up after many of those."
)
THROTTLED_KEYS = Counter("gateway_throttled_keys_total", "Requests with an unknown API key, refused unseen.")
CONNECTIONS = Gauge("gateway_connections_open", "Connections of clients.")
CLOSED = Counter("gateway_connections_closed_total", "Connections that the gateway closed, and why.", ["why"])
