"""What `make bench` says of what it has measured."""

from pathlib import Path

import pytest

from tests.bench import page, report
from tests.bench.report import Figure, bound, figure


@pytest.mark.parametrize(
    ("ours", "direction", "kept"), [(4, ">=", True), (3.9, ">=", False), (4, "<=", True), (4.1, "<=", False)]
)
def test_a_gate_is_broken_on_one_side_alone(ours: float, direction: report.Direction, *, kept: bool) -> None:
    assert kept == Figure("rate", ours, 10, "/s", 0.4, direction).kept


def test_the_ratio_is_the_median_of_the_pairs_and_not_of_each_side() -> None:
    found = figure("rate", [1, 10, 100], [2, 40, 100], "/s")
    assert (found.ratio, found.spread) == (0.5, "0.25 - 1")


def test_what_has_a_bound_of_its_own_keeps_it_in_the_median() -> None:
    assert bound("cost", [0.1, 0.2, 9], 0.2, "ms").kept
    assert not bound("cost", [0.1, 0.3, 0.3], 0.2, "ms").kept


def test_a_part_that_is_measured_again_takes_its_own_place_alone(tmp_path: Path) -> None:
    results = tmp_path / "bench.json"
    for part, ours in (("one", 1), ("two", 2), ("one", 3)):
        report.add(results, part, [Figure(part, ours, 1, "s", before="5")])
    found = report.read(results)
    figures = {part: Figure.from_json(measured["figures"][0]) for part, measured in found.items()}
    assert {"one": Figure("one", 3, 1, "s", before="5"), "two": Figure("two", 2, 1, "s", before="5")} == figures


def test_the_page_has_each_part_that_was_measured_with_its_gates(tmp_path: Path) -> None:
    results = tmp_path / "bench.json"
    report.add(results, "takeover", [figure("rate of ours", [6.0, 5.0], [10.0, 10.0], "/s", 0.6, ">=", "0.05")])
    text = page.written(report.read(results), ["rollback", "takeover"])
    assert "| rate of ours | 0.05 | 5.5 /s | 10 /s | **0.55** | 0.5 - 0.6 | >= 0.6 BROKEN |\n" in text
    assert "## Takeover\n" in text
    assert "## Rollback\n" not in text
    assert "| rollback | the way back to a kept version | a bare start |\n" in text
