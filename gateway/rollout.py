"""One deployment becomes an Outcome, as a journal of named steps. There is no database here.

    settle ─▶ resolve ─▶ pull ─▶ verify ─▶ create ─┬─────────▶ swap ─▶ prove ─────────┬─▶ commit      stop-first
                                                   └─▶ prove ─▶ swap ─▶ drain ────────┘               start-first
                                                                └───────┴─▶ put back

Until the swap the old version is not touched; from create to commit both exist. A rollback that finds the version kept
begins at the swap. What comes after create is told in `swap`.
"""

import asyncio
from collections.abc import Collection

from gateway import swap as swaps
from gateway.attempt import Attempt, Means, Task, in_time
from gateway.deployments import Journal, Kind, Outcome, Status, Step, Swap
from gateway.engine import runtimes
from gateway.engine.runtime import Serving, Version
from gateway.errors import Code, Failed, Reason
from gateway.reference import Digest, Reference
from gateway.registry.client import Resolved

# A push may be told before the registry answers with it: seconds between looks.
_BELIEVE_AFTER = (0.2, 0.5, 1.0)
_CANCELLED = Reason(Code.CANCELLED, "cancelled while it ran: what it had begun was put back")


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
            means.registry.obtain(task.login),
            means.pace.of(application.configuration),
            making=task.deployment.kind not in {Kind.STOP, Kind.DELETE},
            begun=left_open.runtime if left_open else None,
        )
        attempt = Attempt(means, task, journal, runtime, deadline)
        if left_open is not None and (outcome := await swaps.settle(attempt, left_open)):
            return outcome
        await runtime.clear()
        if task.deployment.cancelled_at is not None:
            return Outcome(Status.CANCELLED, _CANCELLED)
        return await _RECIPES[task.deployment.kind](attempt)
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=error.log)


# -- the recipes, one a kind


async def _replace(attempt: Attempt) -> Outcome:
    """Run what the tag means now."""
    if attempt.task.flaw is not None:
        raise Failed(Code.BAD_CONFIGURATION, attempt.task.flaw)
    resolved, reference = await in_time(attempt, _resolve(attempt))
    serving = await attempt.runtime.serving()
    if outcome := await _nothing_to_do(attempt.task, serving, resolved.digest, attempt.runtime.spec_hash()):
        return outcome
    await in_time(attempt, _refuse_platform(attempt, reference, resolved))
    return await _roll_forward(attempt, reference, resolved.digest, serving)


async def _roll_back(attempt: Attempt) -> Outcome:
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
    return await swaps.show(attempt, swap)


async def _roll_forward(attempt: Attempt, reference: Reference, digest: Digest, serving: Serving | None) -> Outcome:
    return await swaps.show(attempt, await in_time(attempt, _prepare(attempt, reference, digest, serving)))


async def _prepare(attempt: Attempt, reference: Reference, digest: Digest, serving: Serving | None) -> Swap:
    journal, runtime = attempt.journal, attempt.runtime
    await journal.begin(Step.PULL)
    try:
        await runtime.obtain(reference, journal.progress)
    except Failed as error:
        if error.reason.code is not Code.DENIED:
            raise
        raise Failed(Code.DENIED, f"{error.reason.message} ({attempt.task.login.told})") from error
    await journal.begin(Step.VERIFY)
    await runtime.check()
    await journal.begin(Step.CREATE)
    deployment = attempt.task.deployment
    return await runtime.prepare(Version(reference, digest, deployment.deployment_id, deployment.epoch), serving)


async def _start(attempt: Attempt) -> Outcome:
    serving = await attempt.runtime.serving()
    if serving is None:
        return await _replace(attempt)
    await attempt.journal.begin(Step.START)
    try:
        await attempt.runtime.start(serving)
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=error.log)
    return Outcome(Status.SUCCEEDED, digest=Digest(serving.digest) if serving.digest else None)


async def _stop(attempt: Attempt) -> Outcome:
    serving = await attempt.runtime.serving()
    if serving is None or not serving.running:
        name = attempt.task.application.app_name
        return Outcome(Status.UNCHANGED, Reason(Code.UP_TO_DATE, f"{name} is not running"))
    await attempt.journal.begin(Step.STOP)
    await attempt.runtime.stop(serving)
    return Outcome(Status.SUCCEEDED)


async def _delete(attempt: Attempt) -> Outcome:
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


async def _resolve(attempt: Attempt) -> tuple[Resolved, Reference]:
    """Return what the tag means now, believed at once only where the push named the same digest."""
    means, wanted = attempt.means, _reference(attempt.task)
    await attempt.journal.begin(Step.RESOLVE, str(wanted))
    try:
        resolved = await _believed(means, attempt.task, wanted)
    except Failed as error:
        if error.reason.code is Code.NOT_FOUND and (told := await means.registry.missing(wanted, attempt.task.login)):
            raise told from error
        raise
    _refuse_other(wanted, resolved.platforms, attempt)
    await attempt.journal.resolved(resolved.digest)
    return resolved, wanted.with_digest(resolved.digest)


async def _refuse_platform(attempt: Attempt, reference: Reference, resolved: Resolved) -> None:
    """Raises Failed where the image is one alone, for another platform: what an index names was looked at before."""
    if not resolved.platforms:
        platform = await attempt.means.registry.platform(reference, attempt.task.login)
        _refuse_other(reference, {platform} if platform else set(), attempt)


def _refuse_other(reference: Reference, platforms: Collection[str], attempt: Attempt) -> None:
    engine = attempt.means.identity.platform
    if platforms and engine not in platforms:
        raise Failed(
            Code.WRONG_ARCHITECTURE, f"{reference} is for {', '.join(sorted(platforms))}; the engine is {engine}"
        )


async def _believed(means: Means, task: Task, wanted: Reference) -> Resolved:
    """Look until the registry answers what the push named, and believe its last answer."""
    expected = task.deployment.expected_digest
    for delay in _BELIEVE_AFTER if expected else ():
        try:
            resolved = await means.registry.resolve(wanted, task.login)
        except Failed as error:
            if error.reason.code is not Code.NOT_FOUND:
                raise
        else:
            if resolved.digest == expected:
                return resolved
        await asyncio.sleep(delay)
    return await means.registry.resolve(wanted, task.login)


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
