"""One deployment becomes an Outcome, as a journal of named steps. There is no database here.

    settle ─▶ resolve ─▶ pull ─▶ verify ─▶ create ─▶ swap ─▶ prove ─▶ commit
                                                      └────────┴─▶ put back

Until the swap the old container is not touched. From create to commit both exist; the swap is one record,
written before it begins, and whoever comes after a crash finishes it or puts the old one back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace

import structlog

from gateway import swap as swaps
from gateway.applications import Application
from gateway.deployments import Deployment, Direction, Journal, Kind, LeaseLost, Outcome, Status, Step, Swap
from gateway.engine import conditions, containers, images, spec
from gateway.engine.client import Engine
from gateway.engine.containers import Container
from gateway.errors import Code, Failed, Postponed, Reason, RolloutError
from gateway.reference import Digest, Reference
from gateway.registries import Credentials
from gateway.registry.client import RegistryClient, Resolved
from gateway.swap import Pace

_LOG = structlog.get_logger()

# A push may be told before the registry answers with it: seconds between looks.
_BELIEVE_AFTER = (0.2, 0.5, 1.0)
_KEPT = 1  # replaced containers kept for a way back


@dataclass(frozen=True, slots=True)
class Means:
    """What a rollout works with: one engine, and the slots in which its containers may be swapped."""

    engine: Engine
    platform: str
    registry: RegistryClient
    swaps: asyncio.Semaphore
    pace: Pace


@dataclass(frozen=True, slots=True)
class Task:
    """What a rollout is to do. `satisfied_by` finds the rollout that did the same just now, if there is one."""

    deployment: Deployment
    application: Application
    credentials: Credentials | None
    satisfied_by: Callable[[Digest, str], Awaitable[str | None]]


async def roll_out(means: Means, task: Task, journal: Journal, left_open: Swap | None) -> Outcome:
    """Do it, after settling a swap that an attempt before us left open.

    Raises Postponed for what heals by itself, LeaseLost when another gateway has taken over. Cancelled, it puts
    back what it had begun.
    """
    try:
        if left_open is not None and (outcome := await _settle(means, task, journal, left_open)):
            return outcome
        return await _RECIPES[task.deployment.kind](means, task, journal)
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=error.log)


async def _settle(means: Means, task: Task, journal: Journal, left_open: Swap) -> Outcome | None:
    """Finish our own swap; put any other back, and return how ours ended if that was it."""
    await journal.begin(Step.SETTLE, f"a swap was left open going {left_open.direction}")
    ours = left_open.deployment_id == task.deployment.deployment_id
    if ours and left_open.direction is Direction.FORWARD:
        return await _resume(means, task, journal, left_open)
    await swaps.put_back(means.engine, left_open)
    if ours and left_open.reason is not None:
        return _put_back_outcome(left_open)
    await journal.close_swap()
    return None


# -- the recipes, one a kind


async def _replace(means: Means, task: Task, journal: Journal) -> Outcome:
    resolved, reference = await _resolve(means, task, journal)
    spec_hash = spec.spec_hash(task.application)
    serving = await _serving(means, task)
    if outcome := await _nothing_to_do(task, serving, resolved.digest, spec_hash):
        return outcome
    await _pull(means, task, journal, reference)
    await journal.begin(Step.VERIFY)
    await conditions.check(means.engine, task.application, serving)
    await journal.begin(Step.CREATE)
    new = await _create(means, task, reference, resolved.digest)
    swap = Swap(
        application_id=task.application.application_id,
        deployment_id=task.deployment.deployment_id,
        serving_name=task.application.app_name,
        old=serving.container_id if serving else None,
        old_restart_policy=serving.restart_policy if serving else None,
        new=new,
    )
    return await _swap(means, task, journal, swap)


async def _start(means: Means, task: Task, journal: Journal) -> Outcome:
    serving = await _serving(means, task)
    if serving is None:
        return await _replace(means, task, journal)
    await journal.begin(Step.START)
    await containers.start(means.engine, serving.container_id)
    await journal.begin(Step.PROVE)
    try:
        await swaps.prove(means.engine, serving.container_id, means.pace)
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=await _last_lines(means, serving.container_id))
    return Outcome(Status.SUCCEEDED, digest=Digest(serving.labels[spec.DIGEST]))


async def _stop(means: Means, task: Task, journal: Journal) -> Outcome:
    serving = await _serving(means, task)
    if serving is None or not (serving.running or serving.restarting):
        return Outcome(Status.UNCHANGED, Reason(Code.UP_TO_DATE, f"{task.application.app_name} is not running"))
    await journal.begin(Step.STOP)
    grace = task.application.configuration.stop_grace
    await containers.stop(means.engine, serving.container_id, grace=grace)
    return Outcome(Status.SUCCEEDED)


async def _delete(means: Means, task: Task, journal: Journal) -> Outcome:
    await journal.begin(Step.REMOVE)
    grace = task.application.configuration.stop_grace
    for container in await containers.select(means.engine, task.application.application_id):
        if container.running or container.restarting:
            await containers.stop(means.engine, container.container_id, grace=grace)
        await containers.remove(means.engine, container.container_id)
    return Outcome(Status.SUCCEEDED)


_RECIPES = {
    Kind.DEPLOY: _replace,
    Kind.REDEPLOY: _replace,
    Kind.START: _start,
    Kind.STOP: _stop,
    Kind.DELETE: _delete,
}


# -- the steps before anything is touched


def _reference(task: Task) -> Reference:
    if task.deployment.reference is None:
        raise Failed(Code.NO_IMAGE, f"{task.application.name} has no image yet")
    return task.deployment.reference


async def _resolve(means: Means, task: Task, journal: Journal) -> tuple[Resolved, Reference]:
    """Return what the tag means now, believed at once only where the push named the same digest."""
    wanted = _reference(task)
    await journal.begin(Step.RESOLVE, str(wanted))
    resolved = await _believed(means, task, wanted)
    if resolved.platforms and means.platform not in resolved.platforms:
        raise Failed(
            Code.WRONG_ARCHITECTURE,
            f"{wanted} is for {', '.join(sorted(resolved.platforms))}; the engine is {means.platform}",
        )
    await journal.resolved(resolved.digest)
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


async def _serving(means: Means, task: Task) -> Container | None:
    """Return the container under the application's name; raises Failed where it is somebody else's."""
    found = await containers.inspect(means.engine, task.application.app_name)
    if found is None:
        return None
    if found.labels.get(spec.APPLICATION) != task.application.application_id:
        raise Failed(Code.NAME_TAKEN, f"a container called {found.name} is there that is not this application's")
    return found


async def _nothing_to_do(task: Task, serving: Container | None, digest: Digest, spec_hash: str) -> Outcome | None:
    """Return an outcome where what serves, observed sound, is just what is asked for."""
    if serving is None or not serving.sound:
        return None
    if (serving.labels.get(spec.DIGEST), serving.labels.get(spec.SPEC)) != (digest, spec_hash):
        return None
    if task.deployment.kind is not Kind.REDEPLOY:
        reason = Reason(Code.UP_TO_DATE, f"{serving.name} runs {digest} already")
        return Outcome(Status.UNCHANGED, reason, digest=digest, spec_hash=spec_hash)
    if done_by := await task.satisfied_by(digest, spec_hash):
        reason = Reason(Code.SATISFIED, f"deployment {done_by} has just replaced {serving.name} with {digest}")
        return Outcome(Status.UNCHANGED, reason, digest=digest, spec_hash=spec_hash)
    return None


async def _pull(means: Means, task: Task, journal: Journal, reference: Reference) -> None:
    await journal.begin(Step.PULL)
    image = await images.inspect(means.engine, str(reference))
    if image is None or not image.has_digest(str(reference.digest)):
        image = await images.pull(
            means.engine, reference, task.credentials, progress=journal.progress, stall=means.pace.pull_stall
        )
    if image.platform != means.platform:
        raise Failed(Code.WRONG_ARCHITECTURE, f"{reference} is for {image.platform}; the engine is {means.platform}")


async def _create(means: Means, task: Task, reference: Reference, digest: Digest) -> str:
    """Create the new container beside the old, after removing what attempts that died here left behind."""
    name = task.application.app_name
    for stray in await containers.select(means.engine, task.application.application_id):
        if swaps.is_ours(stray, name, "new"):
            await containers.remove(means.engine, stray.container_id)
    deployment = task.deployment
    body = spec.creation(
        task.application,
        reference,
        digest,
        deployment_id=deployment.deployment_id,
        attempt=deployment.attempts,
    )
    prepared = swaps.prepared_name(name, deployment.deployment_id)
    return await containers.create(means.engine, prepared, body, spec.networks(task.application))


# -- the swap


async def _swap(means: Means, task: Task, journal: Journal, swap: Swap) -> Outcome:
    """From the record on the database may go away: what is begun is finished from memory and recorded after."""
    grace = task.application.configuration.stop_grace
    async with means.swaps:
        await journal.open_swap(swap, longest_call=grace + means.pace.call_margin)
        ended = await _or_put_back(means, journal, swap, _exchange(means, journal, swap, grace))
    return ended or await _show(means, task, journal, swap)


async def _resume(means: Means, task: Task, journal: Journal, swap: Swap) -> Outcome:
    async with means.swaps:
        grace = task.application.configuration.stop_grace
        ended = await _or_put_back(means, journal, swap, _exchange(means, journal, swap, grace))
    return ended or await _show(means, task, journal, swap)


async def _exchange(means: Means, journal: Journal, swap: Swap, grace: int) -> None:
    journal.note(Step.SWAP)
    await swaps.exchange(means.engine, swap, grace=grace)


async def _show(means: Means, task: Task, journal: Journal, swap: Swap) -> Outcome:
    ended = await _or_put_back(means, journal, swap, _prove(means, journal, swap))
    return ended or await _commit(means, task, journal, swap)


async def _prove(means: Means, journal: Journal, swap: Swap) -> None:
    journal.note(Step.PROVE)
    await journal.flush_if_possible()
    await swaps.prove(means.engine, swap.new, means.pace)


async def _or_put_back(
    means: Means, journal: Journal, swap: Swap, act: Coroutine[object, object, None]
) -> Outcome | None:
    """Do it; where it fails, or we are told to stop, put the old one back. None where it was done."""
    try:
        await act
    except (Postponed, LeaseLost):
        raise  # the record stays open, for whoever is claimed next
    except Exception as error:
        if not isinstance(error, Failed):
            _LOG.exception("A swap failed on a defect")
        reason = error.reason if isinstance(error, Failed) else Reason(Code.INTERNAL, "the swap failed on a defect")
        back = replace(swap, direction=Direction.BACK, reason=reason, log=await _last_lines(means, swap.new))
        await journal.turn_back(back)
        await swaps.put_back(means.engine, back)
        return _put_back_outcome(back)
    except asyncio.CancelledError:
        if not journal.lost:
            await journal.turn_back(replace(swap, direction=Direction.BACK))
            await swaps.put_back(means.engine, swap)
            await journal.close_swap()
        raise
    return None


async def _commit(means: Means, task: Task, journal: Journal, swap: Swap) -> Outcome:
    """Make it lasting: the tag points at what runs, and one replaced container stays for a way back."""
    journal.note(Step.COMMIT)
    serving = await swaps.expect(means.engine, swap.new)
    digest = Digest(serving.labels[spec.DIGEST])
    try:
        if task.deployment.reference is not None:
            await images.tag(means.engine, task.deployment.reference.with_digest(digest))
        replaced = [
            container
            for container in await containers.select(means.engine, swap.application_id)
            if swaps.is_ours(container, swap.serving_name, "old") and container.container_id != swap.old
        ]
        for container in sorted(replaced, key=lambda one: one.created, reverse=True)[_KEPT - 1 :]:
            await containers.remove(means.engine, container.container_id)
    except Failed:
        # What serves is proven; that tidying up is refused does not make it any less so.
        _LOG.warning("Cannot tidy up after a rollout", exc_info=True)
    return Outcome(Status.SUCCEEDED, digest=digest, spec_hash=serving.labels[spec.SPEC], replaced=True)


async def _last_lines(means: Means, container_id: str) -> str:
    try:
        return await containers.last_lines(means.engine, container_id)
    except RolloutError as error:
        return f"(the container's log cannot be read: {error})"


def _put_back_outcome(swap: Swap) -> Outcome:
    return Outcome(Status.ROLLED_BACK if swap.old else Status.FAILED, swap.reason, log=swap.log)
