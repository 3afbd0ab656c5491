"""No input breaks a parser, or costs more than its length allows. `make fuzz` looks longer, guided by coverage."""

import json
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.growth import paused_collector, smallest_ratio
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import targets

TARGETS = targets()


@pytest.mark.parametrize("examples", [50, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_is_sent_is_understood_or_refused(name: str, examples: int) -> None:
    target = TARGETS[name]

    @settings(deadline=None, max_examples=examples)
    @given(st.data())
    def send(data: st.DataObject) -> None:
        seed = data.draw(st.sampled_from(target.seeds) | st.binary(max_size=200))
        target.run(mutate(seed, Random(data.draw(st.integers(0, 2**32)))))

    send()


SMALL, LARGE = 1 << 13, 1 << 16
# Eight times the length costs eight times as much, or sixty-four times where a parser is quadratic.
MOST = 32
# Processor time below which nobody is hurt, and nothing is measured well.
NEGLIGIBLE = 0.005


def cost(run: Callable[[bytes], None], data: bytes) -> float:
    """Processor time of this thread, without that of other programs."""
    with paused_collector():
        began = time.thread_time()
        run(data)
        return time.thread_time() - began


def grows(run: Callable[[bytes], None], make: Callable[[int], bytes]) -> bool:
    small, large = make(SMALL), make(LARGE)
    # A busy machine makes one run look long; what is cheap is so in one of several.
    if any(cost(run, large) < NEGLIGIBLE for _ in range(5)):
        return False
    return smallest_ratio(partial(cost, run), small, large, times=LARGE // SMALL, most=MOST) > MOST


def test_what_is_quadratic_grows_and_what_is_in_proportion_does_not() -> None:
    def spend(steps: int) -> None:
        for _ in range(steps):
            pass

    assert grows(lambda data: spend(len(data) ** 2 >> 12), bytes)
    assert not grows(lambda data: spend(len(data) << 4), bytes)


UNITS = (
    *(
        "a",
        "A",
        "/",
        "a/",
        ".",
        "a.",
        "-",
        "a-",
        "_",
        ":",
        "@",
        "0",
        "a:",
        "\\",
        "'",
        '"',
        "''",
        "=",
        "a=",
        ", ",
        ",a=",
    ),
    *(" ", "\n", "a\n", "a=b\n", "$", "${", "${a}", "*", "[", "{", "(", "^1 || ", "~1", "%2F", "[::", "#", "?a&", "ü"),
)
ENDS = (("", "!"), ("x", ""), ('a="', ""), ("\0", '":1\n\n{}'), ('\0a: b\n\n{"image":"', '"}'))


# Of the units, each parser gets another third in `make test`, and all of them in `make long`.
@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TARGETS)
def test_no_text_costs_more_than_its_length_allows(name: str, share: int) -> None:
    for unit in UNITS[list(TARGETS).index(name) % share :: share]:
        for before, after in ENDS if name.startswith("source-") else ENDS[:3]:

            def make(size: int, whole: str = unit, before: str = before, after: str = after) -> bytes:
                return (before + whole * (size // len(whole)) + after).encode()

            assert not grows(TARGETS[name].run, make), (before, unit, after)


def inflated(value: Any, times: int, *, texts: bool) -> Any:
    """Make every text, or every list, this many times as long."""
    match value:
        case dict():
            return {key: inflated(part, times, texts=texts) for key, part in value.items()}
        case list():
            parts = [inflated(part, times, texts=texts) for part in value[:1]]
            return parts if texts else parts * times
        case str():
            return value * times if texts else value
        case _:
            return value


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("source-")])
def test_no_payload_costs_more_than_its_length_allows(name: str) -> None:
    for seed in TARGETS[name].seeds:
        head, _, body = seed.partition(b"\n\n")
        if body.startswith(b"payload="):
            continue
        value = json.loads(body)
        for texts in (True, False):

            def make(size: int, head: bytes = head, value: Any = value, texts: bool = texts) -> bytes:
                times = max(1, size // len(json.dumps(value)))
                return head + b"\n\n" + json.dumps(inflated(value, times, texts=texts)).encode()

            assert not grows(TARGETS[name].run, make), seed
