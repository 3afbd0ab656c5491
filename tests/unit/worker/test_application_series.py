"""Metrics of single applications: a bounded number of series, and no counter that goes back."""

from gateway.model.deployments import Status
from gateway.worker.application_series import ApplicationSeries, Served

OUTCOMES = (Status.SUCCEEDED, Status.FAILED)
WEB, API = Served("a1", "web", up=True), Served("a2", "api", up=None)


def counted(series: ApplicationSeries) -> dict[tuple[str, str], float]:
    rollouts, _ = series.collect()
    return {(one.labels["application"], one.labels["outcome"]): one.value for one in rollouts.samples}


def test_an_application_is_there_at_0_before_its_first_rollout_and_one_without_a_series_is_summed() -> None:
    series = ApplicationSeries(OUTCOMES)
    assert counted(series) == {("", "succeeded"): 0, ("", "failed"): 0}
    series.count("a1", Status.SUCCEEDED)
    series.count("a3", Status.FAILED)
    series.count("a4", Status.FAILED)
    series.show([WEB, API])
    assert counted(series) == {
        ("web", "succeeded"): 1,
        ("web", "failed"): 0,
        ("api", "succeeded"): 0,
        ("api", "failed"): 0,
        ("", "succeeded"): 0,
        ("", "failed"): 2,
    }


def test_what_is_deleted_is_gone_and_the_sum_of_the_others_does_not_go_back() -> None:
    series = ApplicationSeries(OUTCOMES)
    series.count("a1", Status.SUCCEEDED)
    series.count("a3", Status.SUCCEEDED)
    series.show([WEB])
    series.show([Served("a3", "new", up=True)])
    series.count("a3", Status.SUCCEEDED)
    series.show([Served("a3", "renamed", up=False)])
    assert counted(series) == {
        ("renamed", "succeeded"): 1,
        ("renamed", "failed"): 0,
        ("", "succeeded"): 1,
        ("", "failed"): 0,
    }


def test_only_what_should_run_and_was_looked_at_is_up_or_not() -> None:
    series = ApplicationSeries(OUTCOMES)
    series.show([WEB, API, Served("a3", "down", up=False)])
    _, up = series.collect()
    assert {one.labels["application"]: one.value for one in up.samples} == {"web": 1, "down": 0}


def test_what_nobody_asks_for_takes_a_bounded_place() -> None:
    series = ApplicationSeries(OUTCOMES)
    for number in range(50_000):
        series.count(f"a{number}", Status.SUCCEEDED)
    assert len(series._fresh) <= 20_000  # noqa: SLF001 - nothing else tells of it
    series.show([])
    assert counted(series)["", "succeeded"] == 50_000
