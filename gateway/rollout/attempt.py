"""One attempt at a deployment: what is to be done, with what, and within which time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.docker.runtime import Runtime, Timeouts
from gateway.model.applications import Application
from gateway.model.configuration_diff import Running
from gateway.model.deployments import Deployment, Journal
from gateway.model.errors import Code, Failed
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Login
from gateway.registry.client import RegistryClient

T = TypeVar("T")


class SwapSlots:
    """How many rollouts may stop and start containers on an engine at once, and which do."""

    def __init__(self, most: int) -> None:
        self._most, self._free = most, asyncio.Semaphore(most)
        self._held: list[str] = []

    @property
    def taken(self) -> str | None:
        """Say who holds them, where all are held or waited for."""
        if not self._free.locked():
            return None
        return f"the engine stops and starts {self._most} at once, now {', '.join(sorted(self._held)) or 'others'}"

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        async with self._free:
            self._held.append(name)
            try:
                yield
            finally:
                self._held.remove(name)


def _send_nothing(_title: str, _body: str) -> None:
    """There is nobody to tell."""


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """What a rollout works with: one engine, and the slots in which its containers may be started and stopped."""

    engine: Engine
    identity: EngineIdentity
    registry: RegistryClient
    swaps: SwapSlots
    timeouts: Timeouts
    #: seconds one attempt may take as a whole, not counting what it waits for a slot
    progress_deadline: float
    #: seconds a registry may take until its tag names what it has told of
    registry_lag: float = 30.0
    #: tells people what no outcome does: a title, and what there is to say
    send_alert: Callable[[str, str], None] = _send_nothing


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """The version a rollback brings back: its image by digest, and how it was run."""

    #: the deployment that ran it; None for what the application was adopted with
    deployment_id: str | None
    reference: Reference
    application: Application


async def _knows_none(_digest: Digest) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Task:
    """What a rollout is to do. `satisfied_by` finds the rollout that did the same just now, if there is one."""

    deployment: Deployment
    application: Application
    login: Login
    satisfied_by: Callable[[Digest, str], Awaitable[str | None]]
    target: RollbackTarget | None = None
    #: why nothing can be made of the application as it is configured
    config_error: str | None = None
    #: tells whether the application was deployed with this digest before
    knows: Callable[[Digest], Awaitable[bool]] = _knows_none
    #: what serves, as it was written down
    former: Running | None = None


@dataclass(slots=True)
class Attempt:
    """One attempt at a task, with the runtime of its application.

    `deadline`, by the loop's clock, is put off by each wait for a slot.
    """

    context: RolloutContext
    task: Task
    journal: Journal
    runtime: Runtime
    deadline: float


async def within_deadline(attempt: Attempt, act: Coroutine[object, object, T]) -> T:
    """Do it within what is left of the attempt's time; raises Failed. What puts back is never cut short by it."""
    try:
        async with asyncio.timeout_at(attempt.deadline):
            return await act
    except TimeoutError as error:
        raise _late(attempt) from error


async def check_deadline(attempt: Attempt) -> None:
    if asyncio.get_running_loop().time() >= attempt.deadline:
        raise _late(attempt)


def _late(attempt: Attempt) -> Failed:
    return Failed(Code.TIMED_OUT, f"not done after {attempt.context.progress_deadline:.0f} s")


@asynccontextmanager
async def swap_slot(attempt: Attempt) -> AsyncIterator[None]:
    """Hold one of the engine's slots; that others hold them all is told, and takes nothing of the attempt's time."""
    clock = asyncio.get_running_loop().time
    asked, waits_for = clock(), attempt.context.swaps.taken
    if waits_for is not None:
        await attempt.journal.record_wait(waits_for)
    async with attempt.context.swaps.hold(attempt.task.application.name):
        attempt.deadline += clock() - asked
        if waits_for is not None:
            await attempt.journal.clear_wait()
        yield
