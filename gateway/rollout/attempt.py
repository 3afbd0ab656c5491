"""One attempt at a deployment: its task, its context and its deadline."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.docker.engine import shutdown
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.docker.runtime import Runtime, Timeouts
from gateway.model.applications import Application
from gateway.model.configuration_diff import Running
from gateway.model.deployments import Deployment, Journal
from gateway.model.errors import Code, Failed
from gateway.model.gates import Candidate
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Login
from gateway.registry.client import RegistryClient, Resolved
from gateway.rollout.swap_slots import SwapSlots

T = TypeVar("T")

#: rollouts that list or create containers on an engine at once: more would take the engine's time from swaps
PREPARATIONS = 4


def _send_nothing(_title: str, _body: str) -> None:
    """Drop the alert."""


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """What a rollout works with: the engine, the registry client, the slots and the limits."""

    engine: Engine
    identity: EngineIdentity
    registry: RegistryClient
    swaps: SwapSlots
    timeouts: Timeouts
    #: seconds that one attempt may take, without the waits for a slot
    progress_deadline: float
    #: seconds that a registry may take to serve a tag that it has reported as pushed
    registry_lag: float = 30.0
    #: sends an alert (title, body) about something that no outcome reports
    send_alert: Callable[[str, str], None] = _send_nothing
    #: limits how many rollouts list or create containers on the engine at once
    preparations: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PREPARATIONS))
    #: lends the rollout's slot to another rollout during the block, in which this one only waits for others
    lend_slot: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """The version that a rollback brings back: its image by digest, and its configuration."""

    #: the deployment that ran it; None for what the application was adopted with
    deployment_id: str | None
    reference: Reference
    application: Application


async def _knows_none(_digest: Digest) -> bool:
    return False


async def _is_never_older(_deployment_id: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Task:
    """What a rollout has to do. `satisfied_by` returns the deployment that has just done the same, or None."""

    deployment: Deployment
    application: Application
    login: Login
    satisfied_by: Callable[[Digest, str], Awaitable[str | None]]
    target: RollbackTarget | None = None
    #: why the application cannot run as it is configured
    config_error: str | None = None
    #: tells whether the application was deployed with this digest before
    knows: Callable[[Digest], Awaitable[bool]] = _knows_none
    #: tells whether this deployment was requested before the database was restored from a backup, and the deployment
    #: with the given id, which made what serves, came after that backup
    is_older_than: Callable[[str], Awaitable[bool]] = _is_never_older
    #: what serves, as recorded
    previous: Running | None = None
    #: the application with the configuration of the open swap; None if unknown
    begun: Application | None = None
    #: asks the gates about what is to be pulled and returns their answers in words; raises AtGate, or Failed when one
    #: refuses. None: there are no gates
    ask_gates: Callable[[Candidate], Awaitable[str]] | None = None
    #: whether the deployment belongs to an open release, which may have to bring the replaced version back
    in_release: bool = False
    #: whether the rollout must stop before the swap, since the other members of its release are not prepared
    only_prepares: bool = False
    #: the digest that was prepared for the release: it runs, whatever the tag names by now
    prepared: Digest | None = None
    prepared_spec: str | None = None


@dataclass(slots=True)
class Attempt:
    """One attempt at a task, with the runtime of the application that it runs.

    `deadline` is in seconds of the event loop's clock; each wait for a slot extends it.
    """

    context: RolloutContext
    task: Task
    journal: Journal
    application: Application
    runtime: Runtime
    deadline: float
    #: the first request to the registry, which `ask_beside` sent before the answer is needed
    asked: asyncio.Task[Resolved] | None = None
    #: the image that the push event named, and its pull ahead
    pulling: tuple[Reference, asyncio.Task[bool]] | None = None


async def within_deadline(attempt: Attempt, step: Coroutine[object, object, T]) -> T:
    """Run a step within the attempt's deadline, and raise Failed after it. Putting back has no deadline."""
    try:
        async with asyncio.timeout_at(attempt.deadline):
            return await step
    except TimeoutError as error:
        raise _timed_out(attempt) from error


async def unless_engine_ends(context: RolloutContext, step: Coroutine[object, object, T]) -> T:
    """Run a step. Raises Postponed instead of Failed when the engine refused something because it shuts down."""
    try:
        return await step
    except Failed as error:
        if error.reason.code is Code.ENGINE_REFUSED:
            await shutdown.check_runs_on(context.engine, context.identity.run)
        raise


async def check_deadline(attempt: Attempt) -> None:
    if asyncio.get_running_loop().time() >= attempt.deadline:
        raise _timed_out(attempt)


def _timed_out(attempt: Attempt) -> Failed:
    return Failed(Code.TIMED_OUT, f"not done after {attempt.context.progress_deadline:.0f} s")


@asynccontextmanager
async def swap_slot(attempt: Attempt, *, starts: bool = True, opens: bool = False) -> AsyncIterator[None]:
    """Hold one of the engine's swap slots. A wait for the slot is recorded in the journal, and extends the deadline.

    `starts`: the block starts a container, so its duration shows how busy the engine is. `opens`: the block begins by
    writing the record of the swap, which also clears the recorded wait.
    """
    clock = asyncio.get_running_loop().time
    started, waits_for = clock(), attempt.context.swaps.waits_for
    if waits_for is not None:
        await attempt.journal.record_wait(waits_for)
    async with attempt.context.swaps.hold(attempt.task.application.name, watched=starts):
        attempt.deadline += clock() - started
        # The block does not wait for this write, since other rollouts wait for the slot.
        cleared = None if waits_for is None or opens else asyncio.ensure_future(attempt.journal.clear_wait())
        try:
            yield
        finally:
            if cleared is not None:
                await cleared
