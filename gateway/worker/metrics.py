"""The metrics of the worker, served at /metrics. What can be counted is there from the start, at 0."""

from itertools import product

from prometheus_client import REGISTRY, Counter, Histogram

from gateway.gates.catalog import GATES
from gateway.model.deployments import Kind, Status, Step
from gateway.model.gates import Verdict
from gateway.model.observations import NEEDS_HEALING
from gateway.model.promotions import PromotionState
from gateway.model.releases import ReleaseState
from gateway.worker.application_series import ApplicationSeries

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
TRACES = Counter("gateway_traces_total", "Traces of deployments, by what became of them.", ["outcome"])

#: how a rollout ends; what is superseded never began
OUTCOMES = (Status.SUCCEEDED, Status.UNCHANGED, Status.FAILED, Status.ROLLED_BACK, Status.CANCELLED)
#: how a release ends
RELEASE_OUTCOMES = (ReleaseState.SUCCEEDED, ReleaseState.PUT_BACK, ReleaseState.FAILED)

APPLICATIONS = ApplicationSeries(OUTCOMES)
REGISTRY.register(APPLICATIONS)

for _counter, _values in (
    (ROLLOUTS, product(Kind, OUTCOMES)),
    (TROUBLES, product(("rollback", "alert"))),
    (RELEASES, product(RELEASE_OUTCOMES)),
    (HEALED, product(sorted(NEEDS_HEALING))),
    (ALERTS, product(("sent", "failed", "dropped"))),
    (PROMOTIONS, product(PromotionState)),
    (TRACES, product(("sent", "dropped"))),
    (VERDICTS, product(GATES, Verdict)),
    (STEPS, product(Step, [Status.SUCCEEDED])),
):
    for _labels in _values:
        _counter.labels(*_labels)


def count_rollout(application_id: str, kind: Kind, status: Status) -> None:
    """Count a rollout that ended, for the gateway and for its application."""
    ROLLOUTS.labels(kind, status).inc()
    APPLICATIONS.count(application_id, status)
