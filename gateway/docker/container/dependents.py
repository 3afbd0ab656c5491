"""Recreates containers that share another container's namespaces or volumes after that one was replaced.

Such a dependent refers to the other container, its holder, by id, even when the holder is stopped or gone. The
dependent is recreated to refer to the replacement. Every call can be repeated, and continues an interrupted one.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from gateway.docker.container import adopted_spec, copies
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.model.errors import Failed
from gateway.single_flight import SingleFlight

_LOG = structlog.get_logger()

_MAX_INSPECTIONS = 8  # at once on one engine
# The most containers in the cache. When it is full, most of these are gone, so all are dropped.
_MOST_NOTED = 10_000
_CLOCK_MARGIN = timedelta(seconds=2)
_GRACE = 10  # seconds to stop a container without its own stop timeout
# Suffixes of a container that is being replaced: it ran, or it was stopped.
_RAN, _LAY = "ran", "lay"


@dataclass(frozen=True, slots=True)
class _Shared:
    """The containers, by id or name, that a container shares with."""

    namespaces: frozenset[str]
    volumes: frozenset[str]


@dataclass(slots=True)
class _Known:
    """A cache of what the containers of an engine share. This is fixed at creation, so each is inspected only once."""

    shared: dict[str, _Shared] = field(default_factory=dict)
    _inspections: SingleFlight[_Shared | None] = field(default_factory=SingleFlight)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_INSPECTIONS))

    async def learn(self, engine: Engine, container_id: str) -> _Shared | None:
        """Return what the container shares, None if it is gone."""
        return await self._inspections.join(container_id, lambda: self._inspect(engine.original, container_id))

    async def _inspect(self, engine: Engine, container_id: str) -> _Shared | None:
        async with self._at_once:
            if (found := await containers.inspect_raw(engine, container_id)) is None:
                return None
        return self.note(container_id, found["HostConfig"])

    def note(self, container_id: str, host: Mapping[str, Any]) -> _Shared:
        """Keep what the container shares, by its HostConfig."""
        one = _Shared(adopted_spec.namespace_holders(host), adopted_spec.volume_holders(host))
        self.shared[container_id] = one
        return one


_KNOWN: WeakKeyDictionary[Engine, _Known] = WeakKeyDictionary()


def note(engine: Engine, inspected: Iterable[Container]) -> None:
    """Cache what these containers share, so that they need not be inspected again."""
    known = _KNOWN.setdefault(engine.original, _Known())
    for one in inspected:
        if one.container_id not in known.shared:
            if len(known.shared) >= _MOST_NOTED:
                known.shared.clear()
            known.note(one.container_id, one.inspection["HostConfig"])


async def move_to(engine: Engine, old: str, new: str) -> None:
    """Recreate the containers that share with `old` to share with `new`, and their own dependents in turn.

    A failure is logged. It is no reason to roll back.
    """
    sharing = await _list_sharing(engine)
    dependents = [one for one, shared in sharing.items() if old in shared.namespaces | shared.volumes]
    if old == new or not dependents:
        return
    since = await _stopped_at(engine, old, new)
    for container_id in dependents:
        with _log_failure(container_id):
            if (found := await containers.inspect_raw(engine, container_id)) is not None:
                await _recreate(engine, found, {old: new}, since)


async def rejoin(engine: Engine, old: str, now: str) -> None:
    """Let the dependents of `old` share with `now`, which is the same container started again, or its copy."""
    await move_to(engine, old, now)
    dependents = [one for one, shared in (await _list_sharing(engine)).items() if now in shared.namespaces]
    holder = await containers.inspect(engine, now) if dependents else None
    if holder is None:
        return
    for container_id in dependents:
        with _log_failure(container_id):
            found = await containers.inspect_raw(engine, container_id)
            if found is None or not _original_name(found, _shortly_before(holder.finished_at))[1]:
                continue
            if not found["State"]["Running"] or _is_before(found["State"]["StartedAt"], holder.started_at):
                await containers.restart(engine, container_id, grace=_GRACE)
                await rejoin(engine, container_id, container_id)


def _is_before(one: str, other: str) -> bool:
    return containers.parse_time(one) < containers.parse_time(other)


@contextmanager
def _log_failure(container_id: str) -> Iterator[None]:
    try:
        yield
    except Failed as error:
        _LOG.warning(
            "A container could not be moved to the replacement of the one it depends on",
            container=container_id,
            error=str(error),
        )


async def _stopped_at(engine: Engine, old: str, new: str) -> datetime | None:
    """Return about when the holder stopped, or None while it runs.

    A container that shared its PID namespace was killed with it, and ran until then.
    """
    if (holder := await containers.inspect(engine, old)) is not None:
        return None if holder.running else _shortly_before(holder.finished_at)
    successor = await containers.inspect(engine, new)
    return None if successor is None else _shortly_before(containers.parse_time(successor.started_at))


def _shortly_before(moment: datetime) -> datetime | None:
    """Return a moment before, or None for the engine's zero time."""
    return None if moment.year == 1 else moment - _CLOCK_MARGIN


async def holders_run(engine: Engine, kept: Container) -> bool:
    """Return whether all containers exist and run whose namespaces this one shares."""
    found = await containers.inspect_raw(engine, kept.container_id)
    shared = adopted_spec.namespace_holders(found["HostConfig"]) if found else set()
    holders = [await containers.inspect(engine, holder) for holder in shared]
    return found is not None and all(holder is not None and holder.running for holder in holders)


async def _recreate(
    engine: Engine, found: Mapping[str, Any], instead: Mapping[str, str], since: datetime | None
) -> None:
    """Replace a container with a copy that shares with `instead`, and start it if the original ran."""
    container_id = str(found["Id"])
    name, ran = _original_name(found, since)
    made = await containers.inspect(engine, _temporary_name(name, container_id)) or await containers.inspect(
        engine, name
    )
    if made is None or made.container_id == container_id:
        await copies.duplicate(engine, found, _temporary_name(name, container_id), holders=instead)
        made = await containers.inspect(engine, _temporary_name(name, container_id))
    old = await containers.inspect(engine, container_id)
    if old is None or made is None:
        return
    await containers.rename(engine, old, f"{name}.{_RAN if ran else _LAY}.{container_id[:12]}")
    await containers.rename(engine, made, name)
    if ran:
        grace = found["Config"].get("StopTimeout")
        await containers.stop(engine, container_id, grace=_GRACE if grace is None else grace)
        await containers.start(engine, made.container_id)
    await move_to(engine, container_id, made.container_id)
    await containers.remove(engine, container_id)


def _temporary_name(name: str, container_id: str) -> str:
    return f"{name}.made.{container_id[:12]}"


def _original_name(found: Mapping[str, Any], since: datetime | None) -> tuple[str, bool]:
    """Return the container's name before its replacement began, and whether it ran then."""
    name, state = found["Name"].removeprefix("/"), found["State"]
    for word in (_RAN, _LAY):
        ending = f".{word}.{found['Id'][:12]}"
        if name.endswith(ending):
            return name.removesuffix(ending), word == _RAN
    shared_processes = str(found["HostConfig"].get("PidMode") or "").startswith("container:")
    killed = shared_processes and since is not None and containers.parse_time(state["FinishedAt"]) >= since
    return name, bool(state["Running"] or state["Restarting"] or killed)


async def _list_sharing(engine: Engine) -> dict[str, _Shared]:
    """Return what each container on the engine shares."""
    known = _KNOWN.setdefault(engine.original, _Known())
    there = [str(item["Id"]) for item in await containers.list_raw(engine, stopped=True)]
    for gone in known.shared.keys() - set(there):
        del known.shared[gone]
    # A concurrent call with an older list may remove from the cache what this call has put there.
    cached = {container_id: known.shared[container_id] for container_id in there if container_id in known.shared}
    others = [container_id for container_id in there if container_id not in cached]
    learnt = zip(others, await asyncio.gather(*(known.learn(engine, one) for one in others)), strict=True)
    return cached | {container_id: shared for container_id, shared in learnt if shared is not None}
