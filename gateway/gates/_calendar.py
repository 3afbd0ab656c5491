"""When windows begin and end, in the clock of a place. It performs no I/O.

A window begins at a time of day that the clocks of its zone show. If they skip that time, it begins at the moment they
jump; if they show it twice, at the first of both. How long it lasts is counted in real time. A window of whole days
lasts until the next day that it does not cover begins.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_MIDNIGHT = time()
# 29 February is missing for eight years around 2100.
HORIZON = timedelta(days=9 * 366)

_DATE = r"(?:([0-9]{4})-)?([0-9]{2})-([0-9]{2})"
_RANGE = re.compile(rf"{_DATE}(?:\s*\.\.\s*{_DATE})?", re.ASCII)
_LEAP_YEAR = 2000


@dataclass(frozen=True, slots=True)
class Dates:
    """The days from `first` to `last`. A range of every year has no year, and may go over its end."""

    first: tuple[int, ...]
    last: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Dates":
        """Parse `2026-12-24`, `2026-12-20..2027-01-02`, `12-25` or `12-20..01-02`. Raises ValueError.

        >>> date(2027, 1, 1) in Dates.parse("12-20..01-02")
        True
        """
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not a date: write 2026-12-24, or 12-24 for every year; a range as 12-20..01-02"
            )
        first = _parse_day(text, match[1], match[2], match[3])
        last = first if match[5] is None else _parse_day(text, match[4], match[5], match[6])
        if len(first) != len(last):
            raise ValueError(f"{text!r}: give both dates a year, or none")
        if len(first) == len(("year", "month", "day")) and last < first:
            raise ValueError(f"{text!r} ends before it begins")
        return cls(first, last)

    def __contains__(self, day: date) -> bool:
        shown = (day.year, day.month, day.day)[-len(self.first) :]
        if self.first <= self.last:
            return self.first <= shown <= self.last
        return shown >= self.first or shown <= self.last


def _parse_day(text: str, year: str | None, month: str, day: str) -> tuple[int, ...]:
    try:
        found = date(int(year or _LEAP_YEAR), int(month), int(day))
    except ValueError as error:
        raise ValueError(f"{text!r}: there is no such day") from error
    return (found.year, found.month, found.day)[0 if year else 1 :]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a window begins: at `start` on the days that `weekdays` (Monday is 0) and `dates` allow, each if it is set.

    It lasts for `duration`; None: for whole days.
    """

    zone: ZoneInfo
    weekdays: frozenset[int]
    dates: tuple[Dates, ...]
    start: time
    duration: timedelta | None

    def has(self, day: date) -> bool:
        """Tell whether the window begins on this day."""
        if self.weekdays and day.weekday() not in self.weekdays:
            return False
        return not self.dates or any(day in one for one in self.dates)

    def end_of_latest(self, at: datetime) -> datetime | None:
        """Return when the window ends that began last, up to this time; None if none could reach it.

        Of windows that overlap, the one that begins last also ends last.
        """
        day = _shown_on(at, self.zone) + _DAY
        oldest = day - (self.duration or _DAY) - 3 * _DAY
        while day >= oldest:
            if self.has(day) and (begins := begin_of(day, self.start, self.zone)) <= at:
                if self.duration is None:
                    return begin_of(day + _DAY, _MIDNIGHT, self.zone)
                return begins + self.duration
            day -= _DAY
        return None

    def next_begin(self, at: datetime) -> datetime | None:
        """Return when the window begins next, after this time; None: not within nine years."""
        day = _shown_on(at, self.zone) - 2 * _DAY
        last = day + HORIZON
        while day <= last:
            if self.has(day) and (begins := begin_of(day, self.start, self.zone)) > at:
                return begins
            day += _DAY
        return None


def _shown_on(at: datetime, zone: ZoneInfo) -> date:
    return at.astimezone(zone).date()


def begin_of(day: date, start: time, zone: ZoneInfo) -> datetime:
    """Return the moment, in UTC, at which the clocks of the zone first show this time of this day, or jump over it."""
    shown = datetime.combine(day, start)
    first = shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == shown:
        return first
    # The clocks jump over it: the moment is between this time by the offset after the jump and by the one before.
    low, high = shown.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    before = (low - timedelta(seconds=1)).astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return low if low.astimezone(zone).utcoffset() != before else high
