"""What is counted and timed; shown at /metrics."""

from prometheus_client import Counter, Histogram

DELIVERIES = Counter("gateway_deliveries_total", "Webhook requests.", ["source", "verdict"])
ROLLOUTS = Counter("gateway_rollouts_total", "Rollouts that ended.", ["kind", "outcome"])
STEPS = Histogram(
    "gateway_rollout_step_seconds",
    "How long each step of a rollout took.",
    ["step", "outcome"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
