"""The clock of a digest, compared with a plain sum over what was seen."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.reference import Digest
from gateway.model.soaks import LONGEST_GAP, Soak

START = datetime(2026, 12, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CLOCK = Soak(Digest("sha256:" + "ab" * 32))

_SIGHTINGS = st.lists(
    st.tuples(st.sampled_from([None, "a", "a", "a", "b"]), st.integers(-30, 900), st.booleans()), max_size=12
)


@given(_SIGHTINGS)
def test_the_clock_shows_the_observed_time_of_one_run_alone(sightings: list[tuple[str | None, int, bool]]) -> None:
    soak, at, counted, most, before = CLOCK, START, 0, 0, None
    for run, seconds, in_window in sightings:
        at += timedelta(seconds=seconds)
        soak = soak.see(run, at, in_window=in_window)
        if run is None or run != before:
            counted = 0
        elif 0 <= seconds <= LONGEST_GAP.total_seconds():
            counted += seconds
        before = run
        if run is not None and not in_window:
            most = max(most, counted)
        assert soak.shows == timedelta(seconds=counted if run else 0)
        assert soak.longest == timedelta(seconds=most)


def test_time_in_which_nobody_observed_does_not_count_and_takes_nothing_away() -> None:
    soak = CLOCK.see("a", START, in_window=False).see("a", START + 4 * MINUTE, in_window=False)
    later = soak.see("a", START + 600 * MINUTE, in_window=False)
    assert later.shows == 4 * MINUTE
    assert later.see("a", START + 601 * MINUTE, in_window=False).shows == 5 * MINUTE


def test_a_clock_set_back_or_forward_adds_nothing() -> None:
    soak = CLOCK.see("a", START, in_window=False).see("a", START + 4 * MINUTE, in_window=False)
    assert soak.see("a", START - 600 * MINUTE, in_window=False).shows == 4 * MINUTE
    assert soak.see("a", START + 9000 * MINUTE, in_window=False).shows == 4 * MINUTE


def test_what_was_looked_at_before_a_failure_does_not_count_after_it() -> None:
    failed = Soak(CLOCK.digest, failed_at=START)
    assert failed.see("a", START - MINUTE, in_window=False) == failed
    assert failed.see("a", START + MINUTE, in_window=False).run == "a"
