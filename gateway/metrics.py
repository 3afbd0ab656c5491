"""What is counted and timed; shown at /metrics."""

from prometheus_client import Counter, Gauge, Histogram

DELIVERIES = Counter("gateway_deliveries_total", "Webhook requests.", ["source", "verdict"])
ROLLOUTS = Counter("gateway_rollouts_total", "Rollouts that ended.", ["kind", "outcome"])
TROUBLES = Counter("gateway_watch_troubles_total", "Trouble within watch windows, and what it led to.", ["led_to"])
HEALED = Counter("gateway_healed_total", "Applications that were put right, by what they were.", ["state"])
ALERTS = Counter("gateway_alerts_total", "Alerts, one an address.", ["outcome"])
WRONG_KEYS = Counter(
    "gateway_wrong_keys_total", "Requests with an API key that is none, or was not looked up after many of those."
)
THROTTLED_KEYS = Counter("gateway_throttled_keys_total", "Requests with an unknown API key, refused unseen.")
CONNECTIONS = Gauge("gateway_connections_open", "Connections of clients.")
CLOSED = Counter("gateway_connections_closed_total", "Connections that the gateway closed, and why.", ["why"])
DROPPED_LINES = Counter("gateway_log_lines_dropped_total", "Lines of the log that nobody took in time.")
LOOP_FAILURES = Counter("gateway_loop_failures_total", "How often a loop in the background failed.", ["loop"])
LOOPS_FAILING = Gauge("gateway_loops_failing", "Loops in the background that do not recover.", ["loop"])
REFUSALS = Counter(
    "gateway_database_refusals_total", "What the database refused that it may do later, by SQLSTATE.", ["sqlstate"]
)
STEPS = Histogram(
    "gateway_rollout_step_seconds",
    "How long each step of a rollout took.",
    ["step", "outcome"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
