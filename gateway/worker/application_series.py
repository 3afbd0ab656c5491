"""Metrics of single applications, of a bounded number of them; the others are summed.

The oldest applications have series of their own, as many as the gateway is set to. So every gateway shows the same
applications, also after a restart, and no counter goes back. The series of a deleted application end with the next
request for the metrics.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.model.deployments import Status

_MOST_FRESH = 20_000  # counts that may wait for the next request; then they are summed at once
_REST = ("", "")  # the labels of all that have no series of their own


@dataclass(frozen=True, slots=True)
class Served:
    """An application as it is now. `up` is None where it need not run, or nobody has looked yet."""

    application_id: str
    name: str
    up: bool | None


class ApplicationSeries(Collector):
    """Counts the rollouts of applications, and shows whether these run."""

    def __init__(self, outcomes: Sequence[Status]) -> None:
        self._outcomes = outcomes
        #: since the last `show`, by application and outcome
        self._fresh: Counter[tuple[str, Status]] = Counter()
        self._shown: dict[str, Served] = {}
        self._own: Counter[tuple[str, Status]] = Counter()
        self._rest: Counter[Status] = Counter()

    def count(self, application_id: str, outcome: Status) -> None:
        """Count one rollout."""
        self._fresh[application_id, outcome] += 1
        if len(self._fresh) > _MOST_FRESH:
            self._distribute()

    def show(self, served: Sequence[Served]) -> None:
        """Show these applications, and no others."""
        self._shown = {one.application_id: one for one in served}
        self._own = Counter({key: n for key, n in self._own.items() if key[0] in self._shown})
        self._distribute()

    def _distribute(self) -> None:
        for (application_id, outcome), counted in self._fresh.items():
            if application_id in self._shown:
                self._own[application_id, outcome] += counted
            else:
                self._rest[outcome] += counted
        self._fresh.clear()

    def describe(self) -> Iterator[Metric]:
        return iter((self._rollouts(), self._up()))

    def collect(self) -> Iterator[Metric]:
        rollouts, up = self._rollouts(), self._up()
        for application_id, one in self._shown.items():
            for outcome in self._outcomes:
                rollouts.add_metric([application_id, one.name, outcome], self._own[application_id, outcome])
            if one.up is not None:
                up.add_metric([application_id, one.name], one.up)
        for outcome in self._outcomes:
            rollouts.add_metric([*_REST, outcome], self._rest[outcome])
        return iter((rollouts, up))

    @staticmethod
    def _rollouts() -> CounterMetricFamily:
        return CounterMetricFamily(
            "gateway_application_rollouts_total",
            "Rollouts that ended, by application; without a name: all that have no series of their own.",
            labels=["application_id", "application", "outcome"],
        )

    @staticmethod
    def _up() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "gateway_application_up",
            "Whether an application that should run does, and is not unhealthy.",
            labels=["application_id", "application"],
        )
