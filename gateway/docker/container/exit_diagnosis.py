"""Diagnoses why a container exited, from its state, the engine's events and its last log lines.

A command that could not be executed leaves one line of the OCI runtime in the log, and an exit code without meaning.
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
    0: "it ended by itself; use a command that keeps running",
    126: "the command is not executable",
    127: "the command does not exist",
    134: "aborted",
    _SIGKILL_CODE: "killed, by SIGKILL",
    139: "a segmentation fault",
    143: "stopped by SIGTERM",
}
# Messages of runc and crun, old and new, and of shells.
_EXEC = r"^(?:exec \S+|.*exec user process caused.*|exec container process .*): "
_EXEC_FAILURES = (
    (re.compile("exec format error", re.IGNORECASE), Code.WRONG_ARCHITECTURE),
    (re.compile(f"{_EXEC}no such file", re.IGNORECASE), Code.COMMAND_NOT_FOUND),
    (re.compile(f"{_EXEC}permission denied", re.IGNORECASE), Code.COMMAND_NOT_EXECUTABLE),
)
_MESSAGES = {
    Code.WRONG_ARCHITECTURE: "its program is not for this engine's platform, and not a script that begins with #!",
    Code.COMMAND_NOT_FOUND: "the command, or the interpreter in its first line, is not in the image",
    Code.COMMAND_NOT_EXECUTABLE: "the command is not executable",
}


@dataclass(frozen=True, slots=True)
class Exit:
    """How the container's process ended."""

    exit_code: int
    out_of_memory: bool


async def diagnose_exit(engine: Engine, container: Container, reason: Reason) -> Reason:
    """Return a more precise reason for an exit if the engine knows one. Other reasons are returned unchanged."""
    if reason.code is not Code.EXITED:
        return reason
    try:
        async with asyncio.timeout(_DEADLINE):
            return await _diagnose(engine, container, reason)
    except (RolloutError, TimeoutError):
        return reason  # the diagnosis is optional


async def _diagnose(engine: Engine, container: Container, reason: Reason) -> Reason:
    end = await _last_exit(engine, container)
    if end is None:
        return reason
    if end.out_of_memory:
        return out_of_memory(container)
    if end.exit_code != 0 and (
        diagnosis := failed_to_exec(await containers.last_lines(engine, container.container_id))
    ):
        code, line = diagnosis
        facts = await _platforms(engine, container) if code is Code.WRONG_ARCHITECTURE else ""
        return Reason(code, f"{container.name} did not start: {_MESSAGES[code]}{facts}: {line}")
    again = f"; restarts so far: {container.restart_count}" if container.restart_count else ""
    verb = "keeps exiting" if container.restart_count else "exited"
    why = f": {container.error}" if container.error else ""
    if end.exit_code == _SIGKILL_CODE and container.memory_limit:
        # The engine loses the event of the kernel now and then, above all when the container is started again at once.
        why += f". It may have run out of memory: {_memory_limit(container)}"
    return Reason(Code.EXITED, f"{container.name} {verb} with {describe_exit_code(end.exit_code)}{again}{why}")


def out_of_memory(container: Container) -> Reason:
    """Return the reason for a container that the kernel killed for memory."""
    if container.memory_limit:
        limit = _memory_limit(container)
    else:
        limit = "it has no limit of its own, so its host ran out of memory"
    return Reason(Code.OUT_OF_MEMORY, f"{container.name} was killed because it ran out of memory: {limit}")


def _memory_limit(container: Container) -> str:
    return f"its limit is {container.memory_limit / 1024**2:g} MB"


def describe_exit_code(exit_code: int) -> str:
    """Return an exit code with its common meaning.

    >>> describe_exit_code(137)
    'code 137 (killed, by SIGKILL)'
    """
    text = exit_code_meaning(exit_code)
    return f"code {exit_code} ({text})" if text else f"code {exit_code}"


def exit_code_meaning(exit_code: int) -> str | None:
    """Return the common meaning of an exit code, or None."""
    signalled = _SIGNAL_BASE < exit_code <= _SIGNAL_BASE + _SIGNALS
    return _MEANINGS.get(exit_code) or (f"signal {exit_code - _SIGNAL_BASE}" if signalled else None)


def failed_to_exec(log: str) -> tuple[Code, str] | None:
    """Return the code and the log line of a process that could not be executed, or None."""
    lines = [line.strip() for line in log.strip().splitlines()[-_LINES:]]
    for pattern, code in _EXEC_FAILURES:
        if line := next((line for line in lines if pattern.search(line)), None):
            return code, line
    return None


async def _last_exit(engine: Engine, container: Container) -> Exit | None:
    """Return the last exit. For a running container it comes from the engine's events."""
    if not container.running or container.restarting:
        return Exit(container.exit_code, container.out_of_memory)
    # With `until` in the past, by the engine's clock, the event stream ends by itself.
    filters = {"container": [container.container_id], "event": ["die", "oom"]}
    until = {
        "since": containers.to_timestamp(container.created),
        "until": containers.to_timestamp(container.started_at),
    }
    stream = await logs.read_stream(engine, "events", {**until, "filters": orjson.dumps(filters).decode()})
    events = [orjson.loads(line) for line in stream.splitlines() if line.strip()]
    return last_exit([(one["Action"], one["Actor"]["Attributes"]) for one in events])


def last_exit(events: Sequence[tuple[str, Mapping[str, str]]]) -> Exit | None:
    """Return the last exit in these events. The engine may report `oom` after the `die` that it caused."""
    end, starved_since = None, False
    for action, attributes in events:
        if action == "die":
            end = Exit(int(attributes["exitCode"]), starved_since)
        elif end is not None and end.exit_code == _SIGKILL_CODE:
            end = replace(end, out_of_memory=True)
        starved_since = action == "oom"
    return end


async def _platforms(engine: Engine, container: Container) -> str:
    """Return the platform of the image and of the engine, with its `uname -m`."""
    image = await images.inspect(engine, container.image_id)
    host = await engine.call("GET", "info")
    image_platform = f"; the image says {image.platform}" if image else ""
    return f" (the engine is {host['OSType']}, uname -m {host['Architecture']}{image_platform})"
