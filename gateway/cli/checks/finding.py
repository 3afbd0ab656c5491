"""What a check found, and the deadline of each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from gateway.model.sanitize import safe_line

DEADLINE = 10.0  # seconds of one check
_LONGEST = 500  # characters of a message: an engine or a proxy may answer with a page


class Status(StrEnum):
    """How a check ended. WARNING: the gateway works, with less than it could."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` says what was looked at, `message` what was seen, `remedy` what to do; each is one line."""

    name: str
    status: Status
    message: str
    remedy: str = ""

    @property
    def text(self) -> str:
        return f"{self.message.rstrip('.')}. {self.remedy}" if self.remedy else self.message

    def to_json(self) -> dict[str, str | None]:
        return {"name": self.name, "status": self.status, "message": self.message, "remedy": self.remedy or None}


Check: TypeAlias = Callable[[], Awaitable[Sequence[Finding]]]


def ok(name: str, message: str) -> Finding:
    return Finding(name, Status.OK, _line(message))


def warning(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, Status.WARNING, _line(message), remedy)


def failed(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, Status.FAILED, _line(message), remedy)


async def run(name: str, check: Check, deadline: float = DEADLINE) -> Sequence[Finding]:
    """Run a check. One that does not end in time, or that breaks, has failed; the others go on."""
    try:
        async with asyncio.timeout(deadline):
            return await check()
    except TimeoutError:
        return [failed(name, f"no answer within {deadline:.0f} seconds", "Look at the load and the log of that part.")]
    except Exception as error:
        from gateway.cli._errors import readable_error

        return [failed(name, readable_error(error), "If the message names no remedy, report it.")]


def worst(findings: Sequence[Finding]) -> Status:
    """Return the worst status of all."""
    return max((one.status for one in findings), key=list(Status).index, default=Status.OK)


def _line(text: str) -> str:
    shown = safe_line(" ".join(text.split()))
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …"
