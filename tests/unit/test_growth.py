"""Nothing costs more than in proportion to its length. `make fuzz` looks at every case, up to the longest input."""

import pytest

from tests.fuzz.growth import SAMPLE, Case, measure
from tests.fuzz.worst import cases

CASES = [case for number, case in enumerate(cases()) if not case.name.startswith("input: ") or number % 8 == 0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_four_times_the_input_costs_at_most_six_times_as_much(case: Case) -> None:
    growth = measure(case, SAMPLE)
    assert growth.held, growth
