"""One deployment becomes an Outcome, as a journal of named steps. There is no database here.

    settle ─▶ resolve ─▶ pull ─▶ verify ─▶ create ─┬─────────▶ swap ─▶ prove ─────────┬─▶ commit      stop-first
                                                   └─▶ prove ─▶ swap ─▶ drain ────────┘               start-first
                                                                └───────┴─▶ put back

Until the swap the old version is not touched. From create to commit both exist; the swap is one record, written
before it begins, and whoever comes after a crash finishes it or puts the old one back. A rollback that finds the
version kept begins at the swap.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from gateway.applications import Application
from gateway.deployments import Deployment, Direction, Journal, Kind, LeaseLost, Outcome, Status, Step, Swap
from gateway.engine import runtimes
from gateway.engine.client import Engine, EngineIdentity
from gateway.engine.runtime import Pace, Runtime, Serving, Version
from gateway.engine.unbroken import unbroken
from gateway.errors import Code, Failed, Postponed, Reason, RolloutError
from gateway.reference import Digest, Reference
from gateway.registries import Credentials
from gateway.registry.client import RegistryClient, Resolved

_LOG = structlog.get_logger()

T = TypeVar("T")

# A push may be told before the registry answers with it: seconds between looks.
_BELIEVE_AFTER = (0.2, 0.5, 1.0)
_CANCELLED = Reason(Code.CANCELLED, "cancelled while it ran: what it had begun was put back")


@dataclass(frozen=True, slots=True)
class Means:
    """What a rollout works with: one engine, and the slots in which its containers may be started and stopped."""

    engine: Engine
    identity: EngineIdentity
    registry: RegistryClient
    swaps: asyncio.Semaphore
    pace: Pace
    #: seconds one attempt may take as a whole, not counting what it waits for a slot
    progress_deadline: float


@dataclass(frozen=True, slots=True)
class Target:
    """The version a rollback brings back: its image by digest, and how it was run."""

    #: the deployment that ran it; None for what the application was adopted with
    deployment_id: str | None
    reference: Reference
    application: Application


@dataclass(frozen=True, slots=True)
class Task:
    """What a rollout is to do. `satisfied_by` finds the rollout that did the same just now, if there is one."""

    deployment: Deployment
    application: Application
    credentials: Credentials | None
    satisfied_by: Callable[[Digest, str], Awaitable[str | None]]
    target: Target | None = None


@dataclass(slots=True)
class _Attempt:
    """One attempt at a task, with the runtime of its application.

    `deadline`, by the loop's clock, is put off by each wait for a slot.
    """

    means: Means
    task: Task
    journal: Journal
    runtime: Runtime
    deadline: float


async def roll_out(means: Means, task: Task, journal: Journal, left_open: Swap | None) -> Outcome:
    """Do it, after settling a swap that an attempt before us left open.

    Raises Postponed for what heals by itself, LeaseLost when another gateway has taken over. Cancelled, or out of
    time, it puts back what it had begun. Of a deployment that is not wanted any more only that is done.
    """
    application = task.target.application if task.target else task.application
    deadline = asyncio.get_running_loop().time() + means.progress_deadline
    try:
        runtime = await runtimes.choose(
            # The engine knows no owner: one that was frozen, and taken over from, must ask before it goes on.
            means.engine.fenced(journal.still_ours),
            means.identity,
            application,
            task.credentials,
            means.pace.of(application.configuration),
            making=task.deployment.kind not in {Kind.STOP, Kind.DELETE},
            begun=left_open.runtime if left_open else None,
        )
        attempt = _Attempt(means, task, journal, runtime, deadline)
        if left_open is not None and (outcome := await _settle(attempt, left_open)):
            return outcome
        await runtime.clear()
        if task.deployment.cancelled_at is not None:
            return Outcome(Status.CANCELLED, _CANCELLED)
        return await _RECIPES[task.deployment.kind](attempt)
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=error.log)


async def _in_time(attempt: _Attempt, act: Coroutine[object, object, T]) -> T:
    """Do it within what is left of the attempt's time; raises Failed. What puts back is never cut short by it."""
    try:
        async with asyncio.timeout_at(attempt.deadline):
            return await act
    except TimeoutError as error:
        raise _late(attempt) from error


async def _refuse_late(attempt: _Attempt) -> None:
    if asyncio.get_running_loop().time() >= attempt.deadline:
        raise _late(attempt)


def _late(attempt: _Attempt) -> Failed:
    return Failed(Code.TIMED_OUT, f"not done after {attempt.means.progress_deadline:.0f} s")


@asynccontextmanager
async def _slot(attempt: _Attempt) -> AsyncIterator[None]:
    """Hold one of the engine's slots; that others hold them all takes nothing of the attempt's time."""
    clock = asyncio.get_running_loop().time
    asked = clock()
    async with attempt.means.swaps:
        attempt.deadline += clock() - asked
        yield


async def _settle(attempt: _Attempt, left_open: Swap) -> Outcome | None:
    """Finish our own swap; put any other back, and return how ours ended if that was it."""
    await attempt.journal.begin(Step.SETTLE, f"a swap was left open going {left_open.direction}")
    await attempt.journal.stretch_lease(attempt.runtime.longest_call())
    ours = left_open.deployment_id == attempt.task.deployment.deployment_id
    wanted = attempt.task.deployment.cancelled_at is None
    if ours and wanted and left_open.direction is Direction.FORWARD:
        return await _swap(attempt, left_open, opened=True)
    await attempt.runtime.outlast(left_open)
    await attempt.runtime.put_back(left_open)
    if ours and left_open.reason is not None:
        return _put_back_outcome(left_open)
    await attempt.journal.close_swap()
    return None


# -- the recipes, one a kind


async def _replace(attempt: _Attempt) -> Outcome:
    """Run what the tag means now."""
    resolved, reference = await _in_time(attempt, _resolve(attempt))
    serving = await attempt.runtime.serving()
    if outcome := await _nothing_to_do(attempt.task, serving, resolved.digest, attempt.runtime.spec_hash()):
        return outcome
    return await _roll_forward(attempt, reference, resolved.digest, serving)


async def _roll_back(attempt: _Attempt) -> Outcome:
    """Run a version again that ran before: what is kept of it, else its like, made of what was written down."""
    target, runtime = attempt.task.target, attempt.runtime
    if target is None or target.reference.digest is None:
        raise Failed(Code.NOTHING_KEPT, f"{attempt.task.application.name} ran no other version before")
    deployment, digest = attempt.task.deployment, target.reference.digest
    what = f"what deployment {target.deployment_id} ran" if target.deployment_id else "what was adopted"
    await attempt.journal.begin(Step.RESOLVE, what)
    await attempt.journal.resolved(digest)
    serving = await runtime.serving()
    if outcome := await _nothing_to_do(attempt.task, serving, digest, runtime.spec_hash()):
        return outcome
    version = Version(target.reference, digest, deployment.deployment_id, deployment.epoch)
    swap = await runtime.recall(version, serving)
    if swap is None:
        return await _roll_forward(attempt, target.reference, digest, serving)
    return await _show(attempt, swap)


async def _roll_forward(attempt: _Attempt, reference: Reference, digest: Digest, serving: Serving | None) -> Outcome:
    return await _show(attempt, await _in_time(attempt, _prepare(attempt, reference, digest, serving)))


async def _prepare(attempt: _Attempt, reference: Reference, digest: Digest, serving: Serving | None) -> Swap:
    journal, runtime = attempt.journal, attempt.runtime
    await journal.begin(Step.PULL)
    await runtime.obtain(reference, journal.progress)
    await journal.begin(Step.VERIFY)
    await runtime.check()
    await journal.begin(Step.CREATE)
    deployment = attempt.task.deployment
    return await runtime.prepare(Version(reference, digest, deployment.deployment_id, deployment.epoch), serving)


async def _start(attempt: _Attempt) -> Outcome:
    serving = await attempt.runtime.serving()
    if serving is None:
        return await _replace(attempt)
    await attempt.journal.begin(Step.START)
    try:
        await attempt.runtime.start(serving)
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=error.log)
    return Outcome(Status.SUCCEEDED, digest=Digest(serving.digest) if serving.digest else None)


async def _stop(attempt: _Attempt) -> Outcome:
    serving = await attempt.runtime.serving()
    if serving is None or not serving.running:
        name = attempt.task.application.app_name
        return Outcome(Status.UNCHANGED, Reason(Code.UP_TO_DATE, f"{name} is not running"))
    await attempt.journal.begin(Step.STOP)
    await attempt.runtime.stop(serving)
    return Outcome(Status.SUCCEEDED)


async def _delete(attempt: _Attempt) -> Outcome:
    await attempt.journal.begin(Step.REMOVE)
    await attempt.runtime.remove()
    return Outcome(Status.SUCCEEDED)


_RECIPES = {
    Kind.DEPLOY: _replace,
    Kind.REDEPLOY: _replace,
    Kind.ROLLBACK: _roll_back,
    Kind.START: _start,
    Kind.STOP: _stop,
    Kind.DELETE: _delete,
}


# -- the steps before anything is touched


def _reference(task: Task) -> Reference:
    if task.deployment.reference is None:
        raise Failed(Code.NO_IMAGE, f"{task.application.name} has no image yet")
    return task.deployment.reference


async def _resolve(attempt: _Attempt) -> tuple[Resolved, Reference]:
    """Return what the tag means now, believed at once only where the push named the same digest."""
    means, platform, wanted = attempt.means, attempt.means.identity.platform, _reference(attempt.task)
    await attempt.journal.begin(Step.RESOLVE, str(wanted))
    resolved = await _believed(means, attempt.task, wanted)
    if resolved.platforms and platform not in resolved.platforms:
        raise Failed(
            Code.WRONG_ARCHITECTURE,
            f"{wanted} is for {', '.join(sorted(resolved.platforms))}; the engine is {platform}",
        )
    await attempt.journal.resolved(resolved.digest)
    return resolved, wanted.with_digest(resolved.digest)


async def _believed(means: Means, task: Task, wanted: Reference) -> Resolved:
    """Look until the registry answers what the push named, and believe its last answer."""
    expected = task.deployment.expected_digest
    for delay in _BELIEVE_AFTER if expected else ():
        try:
            resolved = await means.registry.resolve(wanted, task.credentials)
        except Failed as error:
            if error.reason.code is not Code.NOT_FOUND:
                raise
        else:
            if resolved.digest == expected:
                return resolved
        await asyncio.sleep(delay)
    return await means.registry.resolve(wanted, task.credentials)


async def _nothing_to_do(task: Task, serving: Serving | None, digest: Digest, spec_hash: str) -> Outcome | None:
    """Return an outcome where what serves, observed sound, is just what is asked for."""
    if serving is None or not serving.sound:
        return None
    if (serving.digest, serving.spec_hash) != (digest, spec_hash):
        return None
    if task.deployment.kind is not Kind.REDEPLOY:
        reason = Reason(Code.UP_TO_DATE, f"{serving.name} runs {digest} already")
        return Outcome(Status.UNCHANGED, reason, digest=digest, spec_hash=spec_hash)
    if done_by := await task.satisfied_by(digest, spec_hash):
        reason = Reason(Code.SATISFIED, f"deployment {done_by} has just replaced {serving.name} with {digest}")
        return Outcome(Status.UNCHANGED, reason, digest=digest, spec_hash=spec_hash)
    return None


# -- the swap


async def _show(attempt: _Attempt, swap: Swap) -> Outcome:
    """Let the new one prove itself beside the old, where the order allows, and then take its place."""
    if swap.beside:
        await _or_discard(attempt, swap, _present(attempt, swap))
    return await _swap(attempt, swap)


async def _present(attempt: _Attempt, swap: Swap) -> None:
    await attempt.journal.begin(Step.PROVE)
    async with _slot(attempt):
        await _in_time(attempt, attempt.runtime.present(swap))
    await _in_time(attempt, attempt.runtime.prove(swap))


async def _or_discard(attempt: _Attempt, swap: Swap, act: Coroutine[object, object, None]) -> None:
    """Do it; where it fails, or we are told to stop, remove the new one, with the old one never touched."""
    try:
        await act
    except (Postponed, LeaseLost):
        raise  # whoever is claimed next clears it away
    except Failed as error:
        log = await _last_lines(attempt, swap)
        await unbroken(attempt.runtime.discard(replace(swap, reason=error.reason)))
        raise Failed(error.reason.code, error.reason.message, log=log) from error
    except BaseException:
        if not attempt.journal.lost:
            await unbroken(attempt.runtime.discard(swap))
        raise


async def _swap(attempt: _Attempt, swap: Swap, *, opened: bool = False) -> Outcome:
    """From the record on the database may go away: what is begun is finished from memory and recorded after."""
    async with _slot(attempt):
        if not opened:
            await _or_discard(attempt, swap, _refuse_late(attempt))
            await attempt.journal.open_swap(swap, longest_call=attempt.runtime.longest_call())
        ended = await _or_put_back(attempt, swap, _exchange(attempt, swap, again=opened))
    ended = ended or await _or_put_back(attempt, swap, _settled(attempt, swap, proven=swap.beside and not opened))
    return ended or await _commit(attempt, swap)


async def _exchange(attempt: _Attempt, swap: Swap, *, again: bool) -> None:
    attempt.journal.note(Step.SWAP)
    if again and swap.beside:
        # The engine may have been restarted since, and not have started it.
        await attempt.runtime.present(swap)
    await attempt.runtime.exchange(swap)


async def _settled(attempt: _Attempt, swap: Swap, *, proven: bool) -> None:
    """Return once the new one serves by itself; `proven` is one that has shown beside the old that it can."""
    attempt.journal.note(Step.DRAIN if proven else Step.PROVE)
    await attempt.journal.flush_if_possible()
    await attempt.runtime.prove(swap, again=proven)
    if swap.beside:
        await attempt.runtime.retire(swap)


async def _or_put_back(attempt: _Attempt, swap: Swap, act: Coroutine[object, object, None]) -> Outcome | None:
    """Do it; where it fails, or we are told to stop, put the old one back. None where it was done."""
    try:
        await _in_time(attempt, act)
    except (Postponed, LeaseLost):
        raise  # the record stays open, for whoever is claimed next
    except Exception as error:
        if not isinstance(error, Failed):
            _LOG.exception("A swap failed on a defect")
        reason = error.reason if isinstance(error, Failed) else Reason(Code.INTERNAL, "the swap failed on a defect")
        return await unbroken(_turn_back(attempt, swap, reason))
    except asyncio.CancelledError:
        if not attempt.journal.lost:
            await unbroken(_turn_back(attempt, swap, None))
        raise
    return None


async def _turn_back(attempt: _Attempt, swap: Swap, reason: Reason | None) -> Outcome:
    """Put the old one back, for a reason of the new one's; where there is none, it is tried again later."""
    log = await _last_lines(attempt, swap) if reason else ""
    back = replace(swap, direction=Direction.BACK, reason=reason, log=log)
    await attempt.journal.turn_back(back)
    await attempt.runtime.put_back(back)
    if reason is None:
        await attempt.journal.close_swap()
    return _put_back_outcome(back)


async def _commit(attempt: _Attempt, swap: Swap) -> Outcome:
    """Make it lasting, and say what was observed to serve."""
    attempt.journal.note(Step.COMMIT)
    try:
        await attempt.runtime.tidy(swap)
    except Failed:
        # What serves is proven; that tidying up is refused does not make it any less so.
        _LOG.warning("Cannot tidy up after a rollout", exc_info=True)
    serving = await attempt.runtime.serving()
    if serving is None or serving.digest is None:
        raise Postponed(Code.ENGINE_REFUSED, f"{swap.serving_name} was taken away while it was being committed")
    return Outcome(
        Status.SUCCEEDED,
        digest=Digest(serving.digest),
        spec_hash=serving.spec_hash,
        replaced=True,
        object_id=serving.object_id,
        restarts=serving.restarts,
    )


async def _last_lines(attempt: _Attempt, swap: Swap) -> str:
    try:
        return await attempt.runtime.last_lines(swap)
    except RolloutError as error:
        return f"(the container's log cannot be read: {error})"


def _put_back_outcome(swap: Swap) -> Outcome:
    return Outcome(Status.ROLLED_BACK if swap.old else Status.FAILED, swap.reason, log=swap.log)
