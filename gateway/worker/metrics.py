"""The metrics of the worker, served at /metrics."""

from prometheus_client import Counter, Histogram

ROLLOUTS = Counter("gateway_rollouts_total", "Rollouts that ended.", ["kind", "outcome"])
TROUBLES = Counter("gateway_watch_troubles_total", "Trouble within monitor windows, by what it led to.", ["led_to"])
RELEASES = Counter("gateway_releases_total", "Releases that ended.", ["outcome"])
HEALED = Counter("gateway_healed_total", "Applications that were healed, by the state they were in.", ["state"])
ALERTS = Counter("gateway_alerts_total", "Alerts, counted for each address.", ["outcome"])
PROMOTIONS = Counter("gateway_promotions_total", "Changes of promotions, by the state that followed.", ["state"])
STEPS = Histogram(
    "gateway_rollout_step_seconds",
    "How long each step of a rollout took.",
    ["step", "outcome"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
VERDICTS = Counter("gateway_gate_verdicts_total", "Answers of gates about deployments.", ["kind", "verdict"])
