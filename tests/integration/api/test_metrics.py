"""GET /metrics: what it names, what is there from the start, and what monitoring/ asks of it."""

import re
from itertools import product

from prometheus_client.parser import text_string_to_metric_families

from gateway.cli._logging import DROPPED_LINES
from gateway.model.deployments import Kind
from gateway.model.gates import Verdict
from gateway.processes import ENDED
from gateway.sources import SOURCES
from gateway.worker.metrics import APPLICATIONS, OUTCOMES, count_rollout
from tests.support.api_client import Web
from tests.support.monitoring import MONITORING, expressions, metrics_in

#: what has series only once it has happened: values of their labels are not known before
SILENT = {
    "gateway_loop_failures_total",
    "gateway_loops_failing",
    "gateway_database_refusals_total",
    "gateway_application_up",
}
#: of modules that a gateway has and this process need not
ELSEWHERE = (DROPPED_LINES, ENDED)
DOCUMENT = MONITORING.parent / "docs/monitoring.md"


async def samples(web: Web) -> dict[tuple[str, frozenset[str]], float]:
    async with web.client.get("/metrics", headers={"Authorization": f"Bearer {web.key}"}) as answer:
        families = text_string_to_metric_families(await answer.text())
        return {(one.name, frozenset(one.labels.values())): one.value for family in families for one in family.samples}


def names(found: dict[tuple[str, frozenset[str]], float]) -> set[str]:
    return {name for name, _ in found}


async def test_every_expression_of_monitoring_asks_for_metrics_that_exist(web: Web) -> None:
    await web.application("acme/web")
    there = names(await samples(web)) | {"up"}
    asked = {metric: where for where, one in expressions() for metric in metrics_in(one)}
    assert {metric: where for metric, where in asked.items() if metric not in there | SILENT} == {}


async def test_the_documents_list_every_metric_of_the_gateway_and_no_other(web: Web) -> None:
    listed = set(re.findall(r"^\| `(gateway_\w+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names(await samples(web)) | SILENT}
    assert {name for name in there if name.startswith("gateway_") and not name.endswith("_created")} == listed


async def test_what_can_be_counted_is_there_from_the_start(web: Web) -> None:
    found = await samples(web)
    for name, labels in (
        *(("gateway_rollouts_total", one) for one in product(Kind, OUTCOMES)),
        *(("gateway_deliveries_total", one) for one in product(SOURCES, ("queued", "ignored", "duplicate"))),
        *(("gateway_gate_verdicts_total", ("approval", one)) for one in Verdict),
        *(("gateway_alerts_total", (one,)) for one in ("sent", "failed", "dropped")),
    ):
        assert (name, frozenset(labels)) in found


async def test_an_application_has_series_of_its_own_until_it_is_deleted(web: Web) -> None:
    application_id = await web.application("acme/web")
    own = ("gateway_application_rollouts_total", application_id, "failed")

    async def counted() -> list[float]:
        return [value for (name, labels), value in (await samples(web)).items() if {name, *labels} >= set(own)]

    assert await counted() == [0]
    count_rollout(application_id, Kind.DEPLOY, OUTCOMES[2])
    assert await counted() == [1]
    async with web.client.get("/metrics") as answer:  # without a key
        assert application_id not in await answer.text()
    await web.empty("applications")
    assert await counted() == []
    APPLICATIONS.show([])
