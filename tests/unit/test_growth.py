"""Nothing costs more than in proportion to its length. `make fuzz` looks at every case, up to the longest input."""

from tests.fuzz.growth import SAMPLE, measure
from tests.fuzz.worst import cases


def test_four_times_the_input_costs_at_most_six_times_as_much() -> None:
    # Made here, not while tests are collected, which each worker does: it takes half a second.
    tried = [case for number, case in enumerate(cases()) if not case.name.startswith("input: ") or number % 8 == 0]
    assert len(tried) > 200
    assert {case.name: growth for case in tried if not (growth := measure(case, SAMPLE)).held} == {}
