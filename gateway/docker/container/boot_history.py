"""How applications have booted and stopped on an engine since the gateway started. No I/O."""

import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from gateway.docker.engine.client import Engine
from gateway.model.applications import Application

_OVERLAP = 0.8  # the part of the old version's stop after which the new version is to be started
_REMEMBERED, _MOST_REMEMBERED = 86400.0, 10_000  # seconds, applications


@dataclass(frozen=True, slots=True)
class _Past:
    """What is known of the applications of one engine, by application id. All times are in seconds."""

    #: the applications that listened at once the last time, and how long the engine took to start that version
    quick: dict[str, float] = field(default_factory=dict)
    #: when the last boot began, by the monotonic clock
    begun: dict[str, float] = field(default_factory=dict)
    #: how long the last version took to stop and to give its ports back
    stops: dict[str, float] = field(default_factory=dict)
    #: why other applications cannot boot isolated, and when that was seen, by the monotonic clock
    obstacles: dict[str, tuple[str, float]] = field(default_factory=dict)


_PAST: WeakKeyDictionary[Engine, _Past] = WeakKeyDictionary()


def _past(engine: Engine) -> _Past:
    past = _PAST.setdefault(engine.original, _Past())
    for known in (past.quick, past.begun, past.stops, past.obstacles):
        if len(known) > _MOST_REMEMBERED:
            known.clear()
    return past


def boots_quickly(engine: Engine, application: Application) -> bool:
    """Return whether the application's last version listened at once when it booted isolated."""
    return application.application_id in _past(engine).quick


def head_start(engine: Engine, application: Application) -> float:
    """Return how many seconds to wait before the old version is stopped, while a quick new version boots.

    The engine does both at once, which slows both down. By their last durations, the engine is to have started the new
    version shortly before the stop ends. The new version then serves sooner, and the outage is a little longer.
    """
    past, application_id, now = _past(engine), application.application_id, time.monotonic()
    ahead = past.quick.get(application_id, 0.0) - _OVERLAP * past.stops.get(application_id, 0.0)
    return max(0.0, past.begun.get(application_id, now) + ahead - now)


def note_boot(engine: Engine, application: Application) -> None:
    """Note that the boot of a version begins."""
    _past(engine).begun[application.application_id] = time.monotonic()


def remember_start(engine: Engine, application: Application, *, quick: bool, seconds: float) -> None:
    """Remember whether a version listened at once, and the seconds that the engine took to start it."""
    if quick:
        _past(engine).quick[application.application_id] = seconds
    else:
        _past(engine).quick.pop(application.application_id, None)


def remember_stop(engine: Engine, application: Application, seconds: float) -> None:
    _past(engine).stops[application.application_id] = seconds


def remember_obstacle(engine: Engine, application: Application, reason: str) -> None:
    """Remember why a version could not boot isolated, so that the next versions do not try for a day."""
    past, application_id = _past(engine), application.application_id
    past.quick.pop(application_id, None)
    past.obstacles[application_id] = reason, time.monotonic()


def obstacle(engine: Engine, application: Application) -> str:
    """Return why an earlier version could not boot isolated, or ""."""
    obstacles, application_id = _past(engine).obstacles, application.application_id
    if application_id not in obstacles:
        return ""
    reason, seen_at = obstacles[application_id]
    if time.monotonic() - seen_at < _REMEMBERED:
        return f"a version before could not boot beside another: {reason}"
    del obstacles[application_id]
    return ""
