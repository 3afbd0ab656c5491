"""Why a container ended: told from its state, from what the engine remembers of it, and from its last lines.

What a container was started with may never have run: its runtime then leaves one line in its log, and an exit code
that means nothing.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from gateway.docker.engine import containers, images, logs
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.model.errors import Code, Reason, RolloutError

_LINES = 5  # of the log, the last
_DEADLINE = 5.0  # seconds
_SIGNAL_BASE, _SIGNALS, _SIGKILL_CODE = 128, 64, 137
_MEANINGS = {
    0: "it ended by itself: a command that goes on running is needed",
    126: "what it was to run may not be executed",
    127: "what it was to run is not there",
    134: "aborted",
    _SIGKILL_CODE: "killed, by SIGKILL",
    139: "a segmentation fault",
    143: "told to stop, by SIGTERM",
}
# By runc and crun, older and newer, and by shells.
_EXEC = r"^(?:exec \S+|.*exec user process caused.*|exec container process .*): "
_EXEC_FAILURES = (
    (re.compile("exec format error", re.IGNORECASE), Code.WRONG_ARCHITECTURE),
    (re.compile(f"{_EXEC}no such file", re.IGNORECASE), Code.COMMAND_NOT_FOUND),
    (re.compile(f"{_EXEC}permission denied", re.IGNORECASE), Code.COMMAND_NOT_EXECUTABLE),
)
_MESSAGES = {
    Code.WRONG_ARCHITECTURE: "its program is not one for this engine, nor a script that begins with #!",
    Code.COMMAND_NOT_FOUND: "what it was to run, or what the first line of that script names, is not in the image",
    Code.COMMAND_NOT_EXECUTABLE: "what it was to run may not be executed",
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How its process ended."""

    exit_code: int
    out_of_memory: bool


async def diagnose_exit(engine: Engine, container: Container, reason: Reason) -> Reason:
    """Return why it exited, better told where the engine knows more; any other reason as it is."""
    if reason.code is not Code.EXITED:
        return reason
    try:
        async with asyncio.timeout(_DEADLINE):
            return await _diagnose(engine, container, reason)
    except (RolloutError, TimeoutError):
        return reason  # it was asked for more than was to be had


async def _diagnose(engine: Engine, container: Container, reason: Reason) -> Reason:
    end = await _last_exit(engine, container)
    if end is None:
        return reason
    if end.out_of_memory:
        return out_of_memory(container)
    if end.exit_code != 0 and (told := failed_to_exec(await containers.last_lines(engine, container.container_id))):
        code, line = told
        facts = await _platforms(engine, container) if code is Code.WRONG_ARCHITECTURE else ""
        return Reason(code, f"{container.name} did not start: {_MESSAGES[code]}{facts}: {line}")
    again = f"; restarts so far: {container.restart_count}" if container.restart_count else ""
    verb = "keeps exiting" if container.restart_count else "exited"
    why = f": {container.error}" if container.error else ""
    return Reason(Code.EXITED, f"{container.name} {verb} with {describe_exit_code(end.exit_code)}{again}{why}")


def out_of_memory(container: Container) -> Reason:
    if container.memory_limit:
        limit = f"its limit is {container.memory_limit / 1024**2:g} MB"
    else:
        limit = "it has no limit of its own, so its host ran out of memory"
    return Reason(Code.OUT_OF_MEMORY, f"{container.name} was killed for want of memory: {limit}")


def describe_exit_code(exit_code: int) -> str:
    """Return an exit code with what it commonly means.

    >>> meaning(137)
    'code 137 (killed, by SIGKILL)'
    """
    text = exit_code_meaning(exit_code)
    return f"code {exit_code} ({text})" if text else f"code {exit_code}"


def exit_code_meaning(exit_code: int) -> str | None:
    """Return what it commonly means, if it does."""
    signalled = _SIGNAL_BASE < exit_code <= _SIGNAL_BASE + _SIGNALS
    return _MEANINGS.get(exit_code) or (f"signal {exit_code - _SIGNAL_BASE}" if signalled else None)


def failed_to_exec(log: str) -> tuple[Code, str] | None:
    """Return what a log says of a process that could not be started, and the line that says so."""
    lines = [line.strip() for line in log.strip().splitlines()[-_LINES:]]
    for pattern, code in _EXEC_FAILURES:
        if line := next((line for line in lines if pattern.search(line)), None):
            return code, line
    return None


async def _last_exit(engine: Engine, container: Container) -> Exit | None:
    """Return how it ended last; of one that runs again, by what the engine still remembers."""
    if not container.running or container.restarting:
        return Exit(container.exit_code, container.out_of_memory)
    # Until it was started again, by the engine's own clock, the answer comes to an end by itself.
    filters = {"container": [container.container_id], "event": ["die", "oom"]}
    until = {
        "since": containers.to_timestamp(container.created),
        "until": containers.to_timestamp(container.started_at),
    }
    said = await logs.read_stream(engine, "events", {**until, "filters": orjson.dumps(filters).decode()})
    events = [orjson.loads(line) for line in said.splitlines() if line.strip()]
    return last_exit([(one["Action"], one["Actor"]["Attributes"]) for one in events])


def last_exit(events: Sequence[tuple[str, Mapping[str, str]]]) -> Exit | None:
    """Return the last end of these events. The engine may tell of a want of memory after the kill that it led to."""
    end, starved_since = None, False
    for action, attributes in events:
        if action == "die":
            end = Exit(int(attributes["exitCode"]), starved_since)
        elif end is not None and end.exit_code == _SIGKILL_CODE:
            end = replace(end, out_of_memory=True)
        starved_since = action == "oom"
    return end


async def _platforms(engine: Engine, container: Container) -> str:
    """Return what the image says it is for, and what the engine is: what `uname -m` says there."""
    image = await images.inspect(engine, container.image_id)
    host = await engine.call("GET", "info")
    says = f"; the image says {image.platform}" if image else ""
    return f" (the engine is {host['OSType']}, uname -m {host['Architecture']}{says})"
