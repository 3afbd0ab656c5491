"""The gate `window`: deploy only at certain times, or never at certain times (a freeze).

Only the deployment waits. A window is given by its days, the time it starts at, how long it lasts, and the zone whose
clocks say so. Several windows are one: they may overlap. For windows and freezes together, set two gates.
"""

import difflib
import re
from datetime import UTC, datetime, time, timedelta
from functools import cached_property
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import Field, field_validator, model_validator

from gateway.gates._calendar import HORIZON, Dates, Schedule
from gateway.gates._duration import MOST_WAIT, Duration
from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.errors import Code
from gateway.model.gates import Candidate, Decision, GateSetting, passed, refused, unknown

LONGEST_WAIT = timedelta(days=14)

_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_ZONE = re.compile(r"(?!posix/|right/|localtime$|posixrules$|Factory$)[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")


def _is_zone(name: str) -> bool:
    try:
        return _ZONE.fullmatch(name) is not None and ZoneInfo(name).key == name
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the last one: it is a directory, such as America
        return False


class Window(GateRule):
    """A time that comes again: every day, on some days of the week, on some dates.

    Without `start` and `duration`, it lasts for whole days, whatever their length.
    """

    days: Annotated[tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...], Field(max_length=7)] = ()
    dates: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    start: str | None = None
    duration: Duration | None = None
    zone: str

    @field_validator("dates")
    @classmethod
    def _check_dates(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            Dates.parse(one)
        return given

    @field_validator("start")
    @classmethod
    def _check_start(cls, given: str | None) -> str | None:
        if given is not None and not _TIME.fullmatch(given):
            raise ValueError("write the time of day as 22:00")
        return given

    @field_validator("zone")
    @classmethod
    def _check_zone(cls, given: str) -> str:
        if not _is_zone(given):
            near = difflib.get_close_matches(given, available_timezones(), 1)
            raise ValueError(f"there is no zone {given!r}; write for example {(*near, 'Europe/Berlin')[0]}")
        return given

    @model_validator(mode="after")
    def _check_length(self) -> "Window":
        if (self.start is None) != (self.duration is None):
            raise ValueError("give start and duration together, for example 22:00 and 6h; or neither, for whole days")
        return self

    @cached_property
    def schedule(self) -> Schedule:
        return Schedule(
            ZoneInfo(self.zone),
            frozenset(map(_WEEKDAYS.index, self.days)),
            tuple(map(Dates.parse, self.dates)),
            time.fromisoformat(self.start or "00:00"),
            self.duration,
        )


class Rule(GateRule):
    """`mode` says whether deployments go out only inside the windows, or never inside them.

    `wait` is the longest wait, in seconds; a deployment always waits for the next opening.
    """

    mode: Literal["deploy", "freeze"] = "deploy"
    windows: Annotated[tuple[Window, ...], Field(min_length=1, max_length=20)]
    wait: Annotated[float, Field(gt=0, le=MOST_WAIT)] = LONGEST_WAIT.total_seconds()


def is_open(rule: Rule, now: datetime) -> bool:
    """Tell whether deployments may go out now."""
    return _covers(rule, now) == (rule.mode == "deploy")


def next_opening(rule: Rule, now: datetime) -> datetime | None:
    """Return when deployments may go out next: now, if they may now; None: not within nine years."""
    if is_open(rule, now):
        return now
    return _next_begin(rule, now) if rule.mode == "deploy" else _end_of_cover(rule, now)


def next_closing(rule: Rule, now: datetime) -> datetime | None:
    """Return until when deployments may go out, if they may now; None: for nine years at least."""
    return _end_of_cover(rule, now) if rule.mode == "deploy" else _next_begin(rule, now)


def _covers(rule: Rule, now: datetime) -> bool:
    return any((end := one.schedule.end_of_latest(now)) is not None and end > now for one in rule.windows)


def _next_begin(rule: Rule, now: datetime) -> datetime | None:
    found = [begins for one in rule.windows if (begins := one.schedule.next_begin(now)) is not None]
    return min(found, default=None)


def _end_of_cover(rule: Rule, now: datetime) -> datetime | None:
    """Return when the windows that follow one another without a gap have ended."""
    at = now
    while at - now < HORIZON:
        ends = [end for one in rule.windows if (end := one.schedule.end_of_latest(at)) is not None and end > at]
        if not ends:
            return at
        at = max(ends)
    return None


async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> None:
    """There is nothing to gather: the rule and the time say it all."""


def decide(rule: Rule, facts: None, candidate: Candidate, now: datetime) -> Decision:
    _ = facts, candidate
    zone = rule.windows[0].schedule.zone
    if is_open(rule, now):
        closes = next_closing(rule, now)
        until = f" until {_format(closes, zone)}" if closes else ""
        return passed(f"deployments may go out{until}", {"open": True, "closesAt": _iso(closes)})
    opens = next_opening(rule, now)
    evidence = {"open": False, "opensAt": _iso(opens)}
    if opens is None:
        message = "deployments may not go out now, nor within nine years: change the windows of the gate"
        return refused(Code.OUTSIDE_WINDOW, message, evidence)
    what = "deployments are frozen" if rule.mode == "freeze" else "no window for deployments is open"
    return unknown(Code.OUTSIDE_WINDOW, f"{what} until {_format(opens, zone)}", evidence, ask_again_at=opens)


def _format(at: datetime, zone: ZoneInfo) -> str:
    shown = at.astimezone(zone)
    return f"{shown:%a} {shown:%Y-%m-%d %H:%M} {zone.key}"


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


GATE = Gate(
    "window",
    Rule,
    gather,
    decide,
    title="Deploy only at certain times, or not at certain times",
    lets_rollbacks_pass=True,
    longest_wait=LONGEST_WAIT.total_seconds(),
    opens=next_opening,
)
