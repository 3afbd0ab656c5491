"""Windows, compared with a walk through the years that only reads the clocks of the zone."""

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from gateway.gates import window
from gateway.gates.window import Rule, is_open, next_opening
from gateway.model.errors import Code
from gateway.model.gates import Candidate, Decision, Verdict

BERLIN = "Europe/Berlin"
# Jumps of half an hour, of two hours, at midnight, four times a year; odd offsets; none.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Africa/Casablanca",
    "Africa/Cairo",
    "America/Havana",
    "Asia/Beirut",
    "Antarctica/Troll",
    "America/Santiago",
    "Asia/Kathmandu",
    "UTC",
)
STEP = timedelta(minutes=15)  # clocks change at multiples of it
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def rule(mode: str = "deploy", *windows: dict[str, Any], zone: str = BERLIN) -> Rule:
    return Rule.model_validate({"mode": mode, "windows": [{"zone": zone, **one} for one in windows]})


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def decide(rule: Rule, now: datetime) -> Decision:
    return window.decide(rule, None, cast(Candidate, None), now)  # what is deployed plays no part


def test_a_night_window_is_open_over_midnight_and_only_then() -> None:
    night = rule("deploy", {"days": ["mon"], "start": "22:00", "duration": "6h"})
    assert not is_open(night, at("2026-11-30 21:59", BERLIN))
    assert is_open(night, at("2026-11-30 22:00", BERLIN))
    assert is_open(night, at("2026-12-01 03:59", BERLIN))
    assert not is_open(night, at("2026-12-01 04:00", BERLIN))
    assert next_opening(night, at("2026-12-01 04:00", BERLIN)) == at("2026-12-07 22:00", BERLIN)


def test_a_start_in_the_gap_begins_when_the_clock_jumps() -> None:
    skipped = rule("deploy", {"start": "02:30", "duration": "1h"})
    assert next_opening(skipped, at("2027-03-27 12:00")) == at("2027-03-28 01:00")  # 02:00 becomes 03:00
    assert is_open(skipped, at("2027-03-28 01:59"))
    assert not is_open(skipped, at("2027-03-28 02:00"))


def test_a_start_that_occurs_twice_begins_at_the_first_and_lasts_for_real_time() -> None:
    twice = rule("deploy", {"start": "02:30", "duration": "1h"})
    assert next_opening(twice, at("2027-10-30 12:00")) == at("2027-10-31 00:30")
    assert not is_open(twice, at("2027-10-31 01:30"))  # 02:30 once more


def test_whole_days_have_no_hole_when_the_day_has_25_hours() -> None:
    freeze = rule("freeze", {"dates": ["2027-10-30..2027-11-01"]})
    assert next_opening(freeze, at("2027-10-30 10:00")) == at("2027-11-02 00:00", BERLIN)
    assert not any(is_open(freeze, at("2027-10-31 20:00") + minute * STEP) for minute in range(30))


def test_a_yearly_freeze_goes_over_the_end_of_the_year_and_comes_again() -> None:
    freeze = rule("freeze", {"dates": ["12-20..01-02"]})
    assert is_open(freeze, at("2031-12-19 23:59", BERLIN))
    assert next_opening(freeze, at("2031-12-20 00:00", BERLIN)) == at("2032-01-03 00:00", BERLIN)


def test_the_next_opening_is_found_more_than_a_year_ahead() -> None:
    leap = rule("deploy", {"dates": ["02-29"], "start": "10:00", "duration": "30m"})
    assert next_opening(leap, at("2028-03-01 00:00")) == at("2032-02-29 10:00", BERLIN)
    assert next_opening(leap, at("2096-03-01 00:00")) == at("2104-02-29 10:00", BERLIN)


def test_overlapping_windows_are_one() -> None:
    freeze = rule(
        "freeze",
        {"days": ["fri"], "start": "16:00", "duration": "3d"},
        {"days": ["mon"], "start": "08:00", "duration": "12h"},
    )
    assert next_opening(freeze, at("2026-12-04 17:00", BERLIN)) == at("2026-12-07 20:00", BERLIN)


def test_a_day_that_the_calendar_skips_has_a_window_of_no_length() -> None:
    apia = rule("deploy", {"dates": ["2011-12-30"]}, zone="Pacific/Apia")
    opening = next_opening(apia, at("2011-12-01 00:00"))
    assert opening == at("2011-12-30 10:00")
    assert opening is not None
    assert not is_open(apia, opening)


@pytest.mark.parametrize(
    "never",
    [
        rule("deploy", {"dates": ["2024-01-01"]}),
        rule("freeze", {}),
        rule("freeze", {"dates": ["01-01..06-30"]}, {"dates": ["07-01..12-31"]}),
    ],
)
def test_windows_that_never_open_have_no_next_opening_and_refuse(never: Rule) -> None:
    now = at("2026-12-01 00:00")
    assert next_opening(never, now) is None
    assert decide(never, now).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"zone": "Europe/Berln"}, "Europe/Berlin"),
        ({"zone": "../../etc/passwd"}, "there is no zone"),
        ({"zone": "localtime"}, "there is no zone"),
        ({"zone": "America"}, "there is no zone"),
        ({"start": "24:00", "duration": "1h"}, "22:00"),
        ({"start": "22:00"}, "together"),
        ({"start": "22:00", "duration": "0h"}, "3d"),
        ({"start": "22:00", "duration": "400d"}, "366d"),
        ({"dates": ["02-30"]}, "no such day"),
        ({"dates": ["12-20..2027-01-02"]}, "both dates a year"),
        ({"dates": ["2027-01-02..2026-12-20"]}, "ends before"),
        ({"days": ["monday"]}, "mon"),
        ({"day": ["mon"]}, "day"),
    ],
)
def test_a_window_that_says_something_else_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        rule("deploy", given)


def test_the_deployment_waits_for_the_opening() -> None:
    night = rule("deploy", {"start": "22:00", "duration": "6h"})
    waits = decide(night, at("2026-12-01 12:00", BERLIN))
    assert (waits.verdict, waits.code) == (Verdict.UNKNOWN, Code.OUTSIDE_WINDOW)
    assert waits.ask_again_at == at("2026-12-01 22:00", BERLIN)
    assert "Tue 2026-12-01 22:00 Europe/Berlin" in waits.message
    assert decide(night, waits.ask_again_at).verdict is Verdict.PASSED


# -- an independent calculation: it never converts a local time to UTC


def _shown(first: datetime, last: datetime, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """Return each step, from some days before the first, with what the clock shows then."""
    steps, now = [], first - timedelta(days=9)
    while now <= last:
        steps.append((now, datetime.fromtimestamp(now.timestamp(), zone).replace(tzinfo=None)))
        now += STEP
    return steps


def _covered(given: dict[str, Any], first: datetime, steps: list[tuple[datetime, datetime]]) -> Iterator[bool]:
    """Yield whether the window covers each step from the first: it begins once the clock shows its start or more."""
    days = {WEEKDAYS.index(one) for one in given.get("days", WEEKDAYS)}
    months, start, a_day = given.get("months"), given.get("start"), timedelta(days=1)
    after = timedelta() if start is None else timedelta(hours=int(start[:2]), minutes=int(start[3:]))
    lasts = timedelta() if start is None else timedelta(minutes=int(given["duration"][:-1]))
    shown_most = datetime.min  # noqa: DTZ901 - of a local clock
    until = datetime.min.replace(tzinfo=UTC)
    for now, local in steps:
        if local > shown_most:
            today = local.replace(hour=0, minute=0, second=0, microsecond=0) + after
            for due in (today - a_day, today):
                if shown_most < due <= local and start is not None and _on((due - after).date(), days, months):
                    until = max(until, now + lasts)
            shown_most = local
        if now >= first:
            yield now < until if start is not None else _on(shown_most.date(), days, months)


def _on(day: date, days: set[int], months: tuple[int, int] | None) -> bool:
    return day.weekday() in days and (months is None or months[0] <= day.month <= months[1])


def _random_window(chance: random.Random) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if chance.random() < 0.7:
        given["days"] = chance.sample(WEEKDAYS, chance.randint(1, 6))
    if chance.random() < 0.3:
        months = sorted((chance.randint(1, 12), chance.randint(1, 12)))
        given["months"] = tuple(months)
    if chance.random() < 0.8:
        hour = chance.choice((0, 0, 1, 2, 2, 3, 23, chance.randint(0, 23)))  # most clocks change then
        given["start"] = f"{hour:02}:{chance.choice((0, 15, 30, 45)):02}"
        given["duration"] = f"{15 * chance.choice((1, 3, 4, 24, 96, 100, chance.randint(1, 700)))}m"
    return given


def _as_rule(given: dict[str, Any], zone: str) -> dict[str, Any]:
    made = {name: value for name, value in given.items() if name != "months"}
    if months := given.get("months"):
        last = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}.get(months[1], 31)
        made["dates"] = [f"{months[0]:02}-01..{months[1]:02}-{last}"]
    return {**made, "zone": zone}


def _compare(seed: str, zone: str, first: datetime, last: datetime, *, each: int) -> None:
    """Compare random windows of a zone at every so many steps, and at each change."""
    chance = random.Random(seed)
    windows = [_random_window(chance) for _ in range(chance.randint(1, 3))]
    mode = chance.choice(("deploy", "freeze"))
    made = Rule.model_validate({"mode": mode, "windows": [_as_rule(one, zone) for one in windows]})
    steps = _shown(first, last, ZoneInfo(zone))
    times = (now for now, _ in steps if now >= first)
    walks = [_covered(one, first, steps) for one in windows]
    opened = [(now, any(on) == (mode == "deploy")) for now, *on in zip(times, *walks, strict=True)]
    opening: datetime | None = None
    for number in range(len(opened) - 1, -1, -1):
        now, expected = opened[number]
        opening = now if expected else opening
        changes = number > 0 and opened[number - 1][1] != expected
        if changes or number % each == 0:
            case = f"{seed} {mode} {windows} {zone} {now}"
            assert is_open(made, now) == expected, case
            assert not changes or is_open(made, now - timedelta(seconds=1)) != expected, case
            assert opening is None or next_opening(made, now) == opening, case


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Africa/Cairo"])
def test_windows_are_as_the_clocks_of_the_zone_show_them(zone: str) -> None:
    for number, first in enumerate(("2027-03-10 00:00", "2027-10-10 00:00")):
        _compare(f"{zone} {number}", zone, at(first), at(first) + timedelta(days=40), each=37)


@pytest.mark.long
@pytest.mark.timeout(1800)  # half a minute of a processor, which a busy machine gives in many minutes
@pytest.mark.parametrize("zone", ZONES)
def test_windows_are_as_the_clocks_show_them_for_ten_years(zone: str) -> None:
    for number in range(3):
        _compare(f"ten years {number}", zone, at("2026-11-30 00:00"), at("2036-11-30 00:00"), each=101)
