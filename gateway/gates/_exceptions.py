"""Findings that a rule accepts for a time: as a list, or as the text of a file. Each entry has an end and a reason.

CVE-2026-1234 openssl exp:2027-01-31 # not reachable: no TLS client here
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from pydantic import Field, field_validator

from gateway.gates.gate import GateRule
from gateway.gates.report import Finding

_MAX_LINES, _MAX_LENGTH = 1000, 2000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", re.ASCII)
_LINE = re.compile(
    r"(?P<id>\S+)(?:\s+(?P<package>(?!exp:)\S+))?\s+exp:(?P<until>\d{4}-\d\d-\d\d)\s*#\s*(?P<reason>\S.*)"
)
_FORM = "CVE-2026-1234 exp:2027-01-31 # why it is accepted, with the package before exp: if it is for that one only"

Text = Annotated[str, Field(min_length=1, max_length=500)]


class Entry(GateRule):
    """A finding that is accepted through the day `until` (UTC), in one package or in any."""

    id: Text
    package: Text | None = None
    until: date
    reason: Text

    @field_validator("id")
    @classmethod
    def _check_id(cls, given: str) -> str:
        if not _ID.fullmatch(given):
            raise ValueError("write the finding's id as the report has it, for example CVE-2026-1234")
        return given

    @property
    def ends_at(self) -> datetime:
        return datetime.combine(self.until, time(), UTC) + timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.id} in {self.package}" if self.package else self.id


def parse_entries(text: str) -> tuple[Entry, ...]:
    """Read the text of a file; empty lines, and those that begin with #, say nothing. Raises ValueError."""
    return tuple(_entries(text))


def _entries(text: str) -> Iterator[Entry]:
    lines = text.splitlines()
    if len(lines) > _MAX_LINES:
        raise ValueError(f"the file has {len(lines)} lines; {_MAX_LINES} are the most")
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line) if len(line) <= _MAX_LENGTH else None
        try:
            entry = Entry.model_validate(found.groupdict()) if found else None
        except ValueError:
            entry = None
        if entry is None:
            raise ValueError(f"line {number} of the file must be like: {_FORM}")
        yield entry


def unaccepted(findings: Iterable[Finding], entries: Iterable[Entry], now: datetime) -> list[Finding]:
    """Return the findings that no entry accepts any more."""
    valid = _by_id(one for one in entries if one.ends_at > now)
    return [finding for finding in findings if not _covering(valid, finding)]


def expired(findings: Iterable[Finding], entries: Iterable[Entry], now: datetime) -> list[Entry]:
    """Return the entries that have ended and would accept one of the findings."""
    ended = _by_id(one for one in entries if one.ends_at <= now)
    return list(dict.fromkeys(one for finding in findings for one in _covering(ended, finding)))


def _by_id(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for one in entries:
        found.setdefault(one.id.lower(), []).append(one)
    return found


def _covering(entries: dict[str, list[Entry]], finding: Finding) -> list[Entry]:
    there = entries.get(finding.vulnerability.lower(), ())
    return [one for one in there if one.package in {None, finding.package}]
