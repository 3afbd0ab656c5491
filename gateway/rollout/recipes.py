"""Roll out one deployment in named steps, and return its Outcome. Nothing here uses the database.

    settle ─▶ resolve ─▶ gates ─▶ pull ─▶ verify ─▶ create ─┬─────────▶ swap ─▶ prove ────┬─▶ commit    stop-first
                                                            └─▶ prove ─▶ swap ─▶ drain ───┘             start-first
                                                                         └───────┴─▶ put back

The old version is untouched until the swap, and both versions exist from create to commit. A rollback to a kept version
goes from the gates directly to the swap. The module `swap` has the steps after create.

A version that does not serve passes the gates, if there are any, before it is brought into service. Putting back,
settling a swap and starting a stopped version ask no gate.
"""

import asyncio

from gateway.background import beside
from gateway.docker import runtime_factory
from gateway.docker.runtime import Serving, Version
from gateway.model.applications import Application
from gateway.model.configuration_diff import Running, pending_changes
from gateway.model.deployments import Journal, Kind, Outcome, Status, Step, Swap
from gateway.model.errors import Code, Failed, Postponed, Prepared, Reason
from gateway.model.gates import Candidate
from gateway.model.reference import Digest, Reference
from gateway.registry.client import Resolved
from gateway.rollout import swap as rollout_swap
from gateway.rollout.attempt import Attempt, RolloutContext, Task, unless_engine_ends, within_deadline
from gateway.rollout.pull import pull, pull_ahead
from gateway.rollout.resolve import ask_beside, check_platform, digest_mismatch, resolve

_MAX_TYPE_LENGTH = 200
_VERIFIED_FOR = 2.0  # seconds
_CANCELLED = Reason(Code.CANCELLED, "cancelled while it ran: what it had begun was put back")


async def roll_out(context: RolloutContext, task: Task, journal: Journal, left_open: Swap | None) -> Outcome:
    """Roll out the task, after settling the swap that an earlier attempt left open.

    Raises Postponed for what heals by itself, LeaseLost when another gateway has taken over. When it is cancelled or
    out of time, it puts back what it has begun; a cancelled deployment is only put back.
    """
    application = task.target.application if task.target else task.application
    deadline = asyncio.get_running_loop().time() + context.progress_deadline

    async def begin(application: Application) -> Attempt:
        runtime = await runtime_factory.open_runtime(
            # The engine has no fencing: a gateway that was frozen must check its lease before each change.
            context.engine.fenced(journal.ensure_lease),
            context.identity,
            application,
            context.registry.credentials_provider(task.login),
            context.timeouts.of(application.configuration),
            making=task.deployment.kind not in {Kind.STOP, Kind.DELETE},
            begun=left_open.runtime if left_open else None,
            previous=task.previous,
        )
        return Attempt(context, task, journal, application, runtime, deadline)

    async def run() -> Outcome:
        if left_open is not None:
            settling = await begin(task.begun or application)
            if outcome := await rollout_swap.settle(settling, left_open):
                return outcome
        attempt = await begin(application)
        if left_open is None and _is_before_backup(task) and (outcome := await _settle_unrecorded(attempt)):
            return outcome
        async with ask_beside(attempt), pull_ahead(attempt):
            async with context.preparations:  # so that of many rollouts, the first swap while the others prepare
                await attempt.runtime.remove_leftovers()
            if task.deployment.cancelled_at is not None:
                return Outcome(Status.CANCELLED, _CANCELLED)
            return await _RECIPES[task.deployment.kind](attempt)

    try:
        return await unless_engine_ends(context, run())
    except Failed as error:
        if error.reason.code is Code.CONTAINER_MISSING and task.deployment.attempts < rollout_swap.MAX_REMOVED_ATTEMPTS:
            # Somebody removed the container: create it again.
            raise Postponed(error.reason.code, error.reason.message) from error
        return Outcome(Status.FAILED, error.reason, log=error.log)


def _is_before_backup(task: Task) -> bool:
    """Tell whether the deployment was requested before the backup that the database was restored from."""
    restored_at = task.application.restored_at
    return restored_at is not None and task.deployment.requested_at < restored_at


async def _settle_unrecorded(attempt: Attempt) -> Outcome | None:
    """Settle a swap that this deployment began after the backup, so that its record is not in the database."""
    begun = await attempt.runtime.find_begun_swap(attempt.task.deployment.deployment_id)
    if begun is None:
        return None
    longest = attempt.runtime.longest_call()
    await attempt.journal.open_swap(begun, attempt.application, longest_call=longest)
    return await rollout_swap.settle(attempt, begun)


# -- the recipes, one for each kind


async def _replace(attempt: Attempt) -> Outcome:
    """Run the image that the tag points to now."""
    if attempt.task.config_error is not None:
        raise Failed(Code.BAD_CONFIGURATION, attempt.task.config_error)
    if attempt.task.prepared is not None:
        return await _move(attempt, attempt.task.prepared)
    resolved, reference = await within_deadline(attempt, resolve(attempt))
    serving = await attempt.runtime.serving()
    if outcome := await _already_done(attempt, serving, resolved.digest):
        return outcome
    if outcome := await within_deadline(attempt, _check_is_image(attempt, reference, resolved)):
        return outcome
    await _pass_gates(attempt, reference, resolved.digest, serving)
    return await _roll_forward(attempt, reference, resolved.digest, serving)


async def _move(attempt: Attempt, digest: Digest) -> Outcome:
    """Run what was prepared for the release: it was resolved and checked then."""
    wanted = attempt.task.deployment.reference
    if wanted is None:
        raise Failed(Code.NO_IMAGE, f"{attempt.task.application.name} has no image")
    if attempt.runtime.spec_hash() != attempt.task.prepared_spec:
        # The gates let the prepared configuration pass, not this one.
        raise Failed(Code.RELEASE_FAILED, "its configuration was changed after it was prepared: release again")
    attempt.journal.note_step(Step.RESOLVE, "prepared for its release")
    attempt.journal.note_digest(digest)
    serving = await attempt.runtime.serving()
    if outcome := await _already_done(attempt, serving, digest):
        return outcome
    await _pass_gates(attempt, wanted, digest, serving)
    return await _roll_forward(attempt, wanted.with_digest(digest), digest, serving)


async def _roll_back(attempt: Attempt) -> Outcome:
    """Run an earlier version again: its kept container, else a new one made from its recorded configuration."""
    target, runtime = attempt.task.target, attempt.runtime
    if target is None or target.reference.digest is None:
        raise Failed(Code.NOTHING_KEPT, f"{attempt.task.application.name} has no earlier version to roll back to")
    deployment, digest = attempt.task.deployment, target.reference.digest
    what = f"what deployment {target.deployment_id} ran" if target.deployment_id else "what was adopted"
    attempt.journal.note_step(Step.RESOLVE, what)
    attempt.journal.note_digest(digest)
    serving = await runtime.serving()
    if outcome := await _already_done(attempt, serving, digest):
        return outcome
    await _pass_gates(attempt, target.reference, digest, serving, served_before=True)
    version = Version(target.reference, digest, deployment.deployment_id, deployment.epoch)
    swap = await runtime.find_kept(version, serving)
    if swap is None:
        return await _roll_forward(attempt, target.reference, digest, serving)
    return await rollout_swap.perform(attempt, swap)


async def _pass_gates(
    attempt: Attempt, reference: Reference, digest: Digest, serving: Serving | None, *, served_before: bool = False
) -> None:
    """Return when all gates let this digest pass; raises AtGate, or Failed. The time they take extends the deadline."""
    if (ask := attempt.task.ask_gates) is None:
        return
    clock, task, runtime = asyncio.get_running_loop().time, attempt.task, attempt.runtime
    candidate = Candidate(
        task.deployment,
        attempt.application,
        reference.with_digest(digest),
        digest,
        runtime.spec_hash(),
        attempt.context.identity.platform,
        task.login,
        Digest(serving.digest) if serving is not None and serving.digest else None,
        served_before,
        on_swarm=attempt.context.identity.swarm_manager,
        node_platforms=await runtime.platforms(),
    )
    began = clock()
    await attempt.journal.begin(Step.GATES)
    answers = await ask(candidate)
    attempt.deadline += clock() - began
    await attempt.journal.progress(answers)


async def _roll_forward(attempt: Attempt, reference: Reference, digest: Digest, serving: Serving | None) -> Outcome:
    deployment = attempt.task.deployment
    version = Version(reference, digest, deployment.deployment_id, deployment.epoch)
    swap = await within_deadline(attempt, _prepare(attempt, version, serving))
    if attempt.task.only_prepares:
        raise Prepared(attempt.runtime.spec_hash())
    return await rollout_swap.perform(
        attempt, swap, anew=lambda reason: attempt.runtime.create(version, serving, obstacle=reason)
    )


async def _prepare(attempt: Attempt, version: Version, serving: Serving | None) -> Swap:
    """Pull the image, check the engine meanwhile, and create the new version. The old one is not touched."""
    journal, runtime, clock = attempt.journal, attempt.runtime, asyncio.get_running_loop().time
    async with beside(runtime.check_requirements(serving)) as verified:
        began = clock()
        await journal.begin(Step.PULL)
        await pull(attempt, version.reference)
        journal.note_step(Step.VERIFY)
        if clock() - began < _VERIFIED_FOR:
            await verified
        else:  # the result from the beginning of a long pull may be out of date
            await runtime.check_requirements(await runtime.serving())
    swaps = attempt.context.swaps
    obstacle = "it goes with its release" if attempt.task.only_prepares else ""
    if swaps.crowded:
        obstacle = rollout_swap.OTHERS_WAIT
    with swaps.coming():
        async with attempt.context.preparations:
            await journal.begin(Step.CREATE)
            return await runtime.create(version, serving, obstacle=obstacle)


async def _start(attempt: Attempt) -> Outcome:
    serving = await attempt.runtime.serving()
    if serving is None:
        return await _start_removed(attempt)
    await attempt.journal.begin(Step.START)
    try:
        await unless_engine_ends(attempt.context, attempt.runtime.start(serving))
    except Failed as error:
        return Outcome(Status.FAILED, error.reason, log=error.log)
    return Outcome(Status.SUCCEEDED, digest=Digest(serving.digest) if serving.digest else None)


async def _start_removed(attempt: Attempt) -> Outcome:
    """Run the version again that was removed while it was stopped. Without a record, run what the tag points to."""
    previous = attempt.task.previous
    if (
        previous is None
        or previous.reference is None
        or previous.reference.digest is None
        or attempt.task.config_error is not None
    ):
        return await _replace(attempt)
    digest = previous.reference.digest
    attempt.journal.note_step(Step.RESOLVE, f"{previous.reference}, which served before it was removed")
    attempt.journal.note_digest(digest)
    served = _is_configured_as(attempt, previous)
    await _pass_gates(attempt, previous.reference, digest, None, served_before=served)
    try:
        return await _roll_forward(attempt, previous.reference, digest, None)
    except Failed as error:
        if error.reason.code not in {Code.NOT_FOUND, Code.DENIED}:
            raise
        return await _replace(attempt)  # the registry no longer has it


def _is_configured_as(attempt: Attempt, previous: Running) -> bool:
    """Tell whether what served before had the configuration that the application has now."""
    if previous.spec_hash is not None:
        return previous.spec_hash == attempt.runtime.spec_hash()
    return all(one.field == "dockerImage" for one in pending_changes(attempt.application, previous))


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


# -- checks before anything is touched


async def _check_is_image(attempt: Attempt, reference: Reference, resolved: Resolved) -> Outcome | None:
    """Return an outcome when a push brought something other than an image.

    Raises Failed when a person requested it, or when no image fits the engine. An index was checked by `resolve`.
    """
    artifact = resolved.artifact
    if not resolved.platforms and artifact is None:
        described = await attempt.context.registry.describe(reference, attempt.task.login)
        check_platform(reference, {described.platform} if described.platform else set(), attempt)
        artifact = described.artifact
    if artifact is None:
        return None
    message = f"{reference} is not an image: {artifact[:_MAX_TYPE_LENGTH]}"
    if attempt.task.deployment.forced:
        raise Failed(Code.NO_IMAGE, message)
    return Outcome(Status.UNCHANGED, Reason(Code.NO_IMAGE, f"{message}; nothing is deployed"), digest=resolved.digest)


async def _already_done(attempt: Attempt, serving: Serving | None, digest: Digest) -> Outcome | None:
    """Return an outcome if the requested version already serves and is healthy, or if a newer version serves.

    A newer version can serve only if the database was restored from a backup: otherwise the order of the queue rules.
    """
    if serving is None:
        return None
    task, spec_hash = attempt.task, attempt.runtime.spec_hash()
    if not serving.healthy or (serving.digest, serving.spec_hash) != (digest, spec_hash):
        return await _overtaken(task, serving)
    is_own = serving.deployment_id == task.deployment.deployment_id
    if is_own or (task.deployment.kind is not Kind.REDEPLOY and not _is_recorded(task, serving)):
        # The serving version has no record, since the database was restored from a backup, or a swap was closed without
        # a proof. Record it, or healing and rollbacks would take the version before for the serving one.
        done = await attempt.runtime.rebuild_swap(serving, task.deployment.deployment_id)
        return await rollout_swap.commit(attempt, done)
    if task.deployment.kind is not Kind.REDEPLOY:
        reason = Reason(Code.UP_TO_DATE, f"{serving.name} already runs {digest}{digest_mismatch(task, digest)}")
        return Outcome(Status.UNCHANGED, reason, digest=digest, spec_hash=spec_hash)
    if done_by := await task.satisfied_by(digest, spec_hash):
        reason = Reason(Code.SATISFIED, f"deployment {done_by} has just replaced {serving.name} with {digest}")
        return Outcome(Status.UNCHANGED, reason, digest=digest, spec_hash=spec_hash)
    return None


async def _overtaken(task: Task, serving: Serving) -> Outcome | None:
    """Return an outcome if a version runs that is newer than the backup, and that the deployment must not replace."""
    recorded = task.previous.deployment_id if task.previous else None
    made_by = serving.deployment_id
    if not serving.running or made_by is None or made_by == recorded or not await task.is_older_than(made_by):
        return None
    message = (
        f"it was requested before the backup that the database was restored from, and {serving.name} is newer: the "
        f"deployment {made_by} made it, which is not in the backup. To replace that, deploy again"
    )
    return Outcome(Status.CANCELLED, Reason(Code.CANCELLED, message))


def _is_recorded(task: Task, serving: Serving) -> bool:
    """Tell whether this version is recorded as the serving one. A version that no deployment made needs no record."""
    if serving.deployment_id is None:
        return True
    if task.previous is None:
        return False
    reference = task.previous.reference
    recorded = (reference.digest if reference else None, task.previous.spec_hash)
    return all(known in {None, seen} for known, seen in zip(recorded, (serving.digest, serving.spec_hash), strict=True))
