"""Swap the old version for the new one, or put the old one back.

One record describes the swap, and is written before it begins. From then on the database may be unavailable: the swap
is finished from memory and recorded afterwards. After a crash, the next owner settles the open swap first. It uses the
configuration that the new version was made from, since the application's may have changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace

import structlog

from gateway.docker.engine.shield import run_to_completion
from gateway.docker.runtime import Boot, Serving
from gateway.model.deployments import Direction, LeaseLost, Outcome, Status, Step, Swap
from gateway.model.errors import Code, Failed, Postponed, Reason, RolloutError
from gateway.model.reference import Digest
from gateway.rollout.attempt import Attempt, check_deadline, swap_slot, unless_engine_ends, within_deadline

_LOG = structlog.get_logger()

#: attempts at a deployment whose new container is removed by somebody else
MAX_REMOVED_ATTEMPTS = 5
# After so many failed attempts at settling an open swap, it is put back, not finished; and then closed as it is.
_MAX_FORWARD, _MAX_BACK = 6, 10
#: attempts at settling a swap that end on a defect, and other attempts; after these, what serves is only observed
MAX_SWAP_DEFECTS, MAX_SWAP_RESUMPTIONS = 5, 100
#: why a new version does not boot beside the old one
OTHERS_WAIT = "others wait for the engine"
_REGISTRY_CODES = frozenset({Code.REGISTRY_UNREACHABLE, Code.RATE_LIMITED, Code.PULL_INTERRUPTED})


async def settle(attempt: Attempt, left_open: Swap) -> Outcome | None:
    """Finish the swap that an earlier attempt left open, or put it back.

    It is finished if it belongs to this deployment and can go on. Returns the outcome if the swap decides this
    deployment, and None if the deployment is still to be rolled out.
    """
    attempt.journal.note_step(Step.SETTLE, f"a swap was left open, going {left_open.direction}")
    await attempt.journal.flush_if_possible()
    await attempt.journal.extend_lease_if_possible(attempt.runtime.longest_call())
    if left_open.defects >= MAX_SWAP_DEFECTS or left_open.failed_resumptions >= MAX_SWAP_RESUMPTIONS:
        return await _close_unsettled(attempt, left_open)
    if await attempt.runtime.is_superseded(left_open):
        # The database was restored from an older backup.
        _LOG.warning("An open swap is older than what serves: it is closed", swap=left_open.deployment_id)
        await attempt.journal.close_swap()
        return None
    is_own = left_open.deployment_id == attempt.task.deployment.deployment_id
    wanted = attempt.task.deployment.cancelled_at is None
    patient = left_open.failed_resumptions < _MAX_FORWARD
    if is_own and wanted and patient and left_open.direction is Direction.FORWARD:
        return await _swap(attempt, left_open, resumed=True)
    await attempt.runtime.wait_out_pending_calls(left_open)
    try:
        await attempt.runtime.put_back(left_open)
    except Postponed as error:
        limit = MAX_SWAP_RESUMPTIONS if error.reason.code in _REGISTRY_CODES else _MAX_BACK
        if error.reason.code is Code.ENGINE_UNREACHABLE or left_open.failed_resumptions + 1 < limit:
            raise
        _LOG.exception("An open swap cannot be put back: it is closed as it is")
        if not is_own:  # the outcome of the deployment reports its own swap
            title = f"{attempt.task.application.name}: a swap could not be put back"
            attempt.context.send_alert(title, f"It is closed as it is: {error}")
        left_open = replace(left_open, reason=left_open.reason or error.reason)
    if is_own and left_open.reason is not None:
        return await _put_back_outcome(attempt, left_open)
    await attempt.journal.close_swap()
    return None


async def _close_unsettled(attempt: Attempt, swap: Swap) -> Outcome | None:
    """Close a swap that cannot be settled and report what is observed to serve. The next deployment starts afresh."""
    serving, observed = await _describe_serving(attempt, swap)
    attempts = swap.failed_resumptions + swap.defects
    message = f"the swap could not be settled in {attempts} more attempts, and is closed as it is: {observed}"
    _LOG.error("An open swap cannot be settled", swap=swap.deployment_id, seen=observed)
    attempt.context.send_alert(f"{attempt.task.application.name}: a swap could not be settled", message)
    if swap.deployment_id != attempt.task.deployment.deployment_id:
        await attempt.journal.close_swap()
        return None
    previous = serving is not None and serving.running and serving.object_id == swap.old
    first = f"{swap.reason.message}; " if swap.reason else ""
    reason = Reason(swap.reason.code if swap.reason else Code.TOO_MANY_ATTEMPTS, first + message)
    return Outcome(Status.ROLLED_BACK if previous else Status.FAILED, reason, log=swap.log)


async def _describe_serving(attempt: Attempt, swap: Swap) -> tuple[Serving | None, str]:
    """Return what serves, and a description of it; raises Postponed when the engine is unreachable."""
    name = swap.serving_name
    try:
        serving = await attempt.runtime.serving()
    except LeaseLost:
        raise
    except Exception as error:
        if isinstance(error, Postponed) and error.reason.code is Code.ENGINE_UNREACHABLE:
            raise
        _LOG.exception("What serves cannot be observed")
        why = str(error) if isinstance(error, RolloutError) else "a defect of the gateway"
        return None, f"what serves {name} is unknown: {why}"
    if serving is None or not serving.running:
        return serving, f"nothing serves {name}"
    if serving.object_id == swap.old:
        return serving, f"the old version serves {name}"
    if serving.deployment_id == swap.deployment_id or serving.object_id == swap.new:
        return serving, f"the new version runs as {name}, and was not proven"
    return serving, f"{name} is neither the old nor the new version"


async def perform(attempt: Attempt, swap: Swap, *, anew: Callable[[str], Awaitable[Swap]] | None = None) -> Outcome:
    """Perform the swap. Under start-first, the new version first proves itself beside the old one.

    When the new version cannot boot beside the old one, `anew` gets the reason, and creates a new container that starts
    during the swap.
    """
    if swap.starts_beside_old:
        await _discard_on_failure(attempt, swap, _start_beside(attempt, swap))
    boot = None
    if swap.boots_beside_old and attempt.context.swaps.crowded:
        # A boot beside the old version would take the engine's time from swaps that could end sooner.
        swap = replace(swap, boots_beside_old=False, boots_quickly=False, boot_obstacle=OTHERS_WAIT)
    if swap.boots_beside_old and not swap.boots_quickly and anew is not None:
        boot = _BootBeside(attempt, anew)
        swap = await within_deadline(attempt, boot.run(swap))
    return await _swap(attempt, swap, boot)


@dataclass(slots=True)
class _BootBeside:
    """Boots the new version of a stop-first swap beside the old one, which stays as it is."""

    attempt: Attempt
    anew: Callable[[str], Awaitable[Swap]]
    _boot: Boot | None = None

    async def run(self, swap: Swap) -> Swap:
        await self.attempt.journal.progress("it boots beside the old one")
        return await self._or_anew(swap, self._run(swap))

    async def _run(self, swap: Swap) -> None:
        async with swap_slot(self.attempt):
            self._boot = await self.attempt.runtime.boot_beside(swap)
        await self._boot.wait()

    async def confirm(self, swap: Swap) -> Swap:
        """Check the booted version again directly before the swap, which may have waited for a slot."""
        return swap if self._boot is None else await self._or_anew(swap, self._boot.check_silent())

    async def _or_anew(self, swap: Swap, step: Coroutine[object, object, None]) -> Swap:
        """Run a step of the boot. Return the swap, or after a failure a swap with another, unstarted container."""
        runtime = self.attempt.runtime
        try:
            await step
        except (Postponed, LeaseLost):
            raise  # the next attempt removes the new container
        except Failed as error:
            _LOG.info("A container cannot boot beside the old one", container=swap.new, reason=str(error))
            self._boot = None
            await run_to_completion(runtime.discard(swap))
            return await self.anew(str(error))
        except BaseException:
            if not self.attempt.journal.lost:
                await run_to_completion(runtime.discard(swap))
            raise
        return swap


async def _start_beside(attempt: Attempt, swap: Swap) -> None:
    await attempt.journal.begin(Step.PROVE)
    async with swap_slot(attempt):
        await within_deadline(attempt, attempt.runtime.start_beside(swap))
    await within_deadline(attempt, attempt.runtime.wait_until_ready(swap))


async def _discard_on_failure(attempt: Attempt, swap: Swap, step: Coroutine[object, object, None]) -> None:
    """Run a step before the swap. On failure or cancellation, remove the new container; the old one is untouched."""
    try:
        await step
    except (Postponed, LeaseLost):
        raise  # the next attempt removes the new container
    except Failed as error:
        log = await _last_lines(attempt, swap)
        await run_to_completion(attempt.runtime.discard(replace(swap, reason=error.reason)))
        raise Failed(error.reason.code, error.reason.message, log=log) from error
    except BaseException:
        if not attempt.journal.lost:
            await run_to_completion(attempt.runtime.discard(swap))
        raise


async def _swap(attempt: Attempt, swap: Swap, boot: _BootBeside | None = None, *, resumed: bool = False) -> Outcome:
    """Open the swap's record, switch over, prove, commit. The database may go away once the record is written."""
    starts = not swap.starts_beside_old and boot is None
    async with swap_slot(attempt, starts=starts, opens=not resumed and boot is None):
        if boot is not None:
            swap = await within_deadline(attempt, boot.confirm(swap))
        # A quick boot begins before the record is written, since it does not touch the old version.
        booting = asyncio.ensure_future(attempt.runtime.boot_beside(swap)) if swap.boots_quickly else None
        if not resumed:
            await _discard_on_failure(attempt, swap, _open(attempt, swap, booting))
        switch = _switch_over(attempt, swap, booting, resumed=resumed)
        outcome = await _put_back_on_failure(attempt, swap, switch)
    outcome = outcome or await _put_back_on_failure(
        attempt, swap, _prove(attempt, swap, proven=swap.starts_beside_old and not resumed)
    )
    return outcome or await commit(attempt, swap)


async def _open(attempt: Attempt, swap: Swap, booting: asyncio.Task[Boot] | None) -> None:
    """Write the record of the swap."""
    try:
        await check_deadline(attempt)
        await attempt.journal.open_swap(swap, attempt.application, longest_call=attempt.runtime.longest_call())
    except BaseException:
        await _end(booting)
        raise


async def _end(booting: asyncio.Task[Boot] | None) -> None:
    """End the boot: none of it may run while the new version is removed or the old one is put back."""
    if booting is not None:
        booting.cancel()
        await asyncio.gather(booting, return_exceptions=True)


async def _switch_over(attempt: Attempt, swap: Swap, booting: asyncio.Task[Boot] | None, *, resumed: bool) -> None:
    attempt.journal.note_step(Step.SWAP, _describe_order(swap))
    try:
        if resumed and swap.starts_beside_old:
            # The engine may have restarted since then, without starting the new container.
            await attempt.runtime.start_beside(swap)
        await attempt.runtime.switch_over(swap, booting)
    finally:
        await _end(booting)


def _describe_order(swap: Swap) -> str:
    """Return a sentence on which way a stop-first swap takes, or "" when there is only one."""
    if swap.boots_quickly:
        return "the new one boots while the old one stops, and joins its network in its place"
    if swap.boots_beside_old:
        return "the new one has booted beside the old one, and joins its network in its place"
    return f"the old one stops before the new one starts: {swap.boot_obstacle}" if swap.boot_obstacle else ""


async def _prove(attempt: Attempt, swap: Swap, *, proven: bool) -> None:
    """Return once the new version serves alone. `proven`: it has already proven itself beside the old one."""
    attempt.journal.note_step(Step.DRAIN if proven else Step.PROVE)
    await attempt.journal.flush_if_possible()
    await attempt.runtime.wait_until_ready(swap, again=proven)
    if swap.starts_beside_old:
        await attempt.runtime.stop_old(swap)


async def _put_back_on_failure(attempt: Attempt, swap: Swap, step: Coroutine[object, object, None]) -> Outcome | None:
    """Run a step of the swap. On failure or cancellation, put the old version back. Returns None on success."""
    try:
        await within_deadline(attempt, unless_engine_ends(attempt.context, step))
    except (Postponed, LeaseLost):
        raise  # the record stays open for the next attempt
    except Exception as error:
        if isinstance(error, Failed) and _was_removed(attempt, error):
            await run_to_completion(_put_back(attempt, swap, None))
            raise
        if not isinstance(error, Failed):
            _LOG.exception("A swap failed on a defect")
        reason = error.reason if isinstance(error, Failed) else Reason(Code.INTERNAL, "the swap failed on a defect")
        return await run_to_completion(_put_back(attempt, swap, reason))
    except asyncio.CancelledError:
        if not attempt.journal.lost:
            await run_to_completion(_put_back(attempt, swap, None))
        raise
    return None


async def _put_back(attempt: Attempt, swap: Swap, reason: Reason | None) -> Outcome:
    """Put the old version back, and return the outcome. Without a `reason`, the deployment is tried again later."""
    log = await _last_lines(attempt, swap) if reason else ""
    back = replace(swap, direction=Direction.BACK, reason=reason, log=log)
    await attempt.journal.record_reversal(back)
    await attempt.runtime.put_back(back)
    if reason is None:
        await attempt.journal.close_swap_if_possible()
        return Outcome(Status.ROLLED_BACK)
    return await _put_back_outcome(attempt, back)


async def commit(attempt: Attempt, swap: Swap) -> Outcome:
    """Clean up, and return what is observed to serve."""
    attempt.journal.note_step(Step.COMMIT)
    if attempt.context.swaps.wanted:
        # The clean-up lets running swaps go first. It lends its slot meanwhile, so that waiting rollouts can begin.
        with attempt.context.lend_slot():
            await attempt.context.swaps.let_others_first()
    try:
        await attempt.runtime.clean_up(swap, at_least=1 if attempt.task.in_release else 0)
    except Failed:
        # The new version is proven, so a failed clean-up does not fail the rollout.
        _LOG.warning("Cannot clean up after a rollout", exc_info=True)
    serving = await attempt.runtime.serving()
    if serving is None or serving.digest is None or not serving.running:
        raise Postponed(Code.ENGINE_REFUSED, f"{swap.serving_name} was removed while the rollout was being committed")
    return Outcome(
        Status.SUCCEEDED,
        digest=Digest(serving.digest),
        spec_hash=serving.spec_hash,
        ran=attempt.application,
        object_id=serving.object_id,
        restarts=serving.restarts,
    )


async def _last_lines(attempt: Attempt, swap: Swap) -> str:
    try:
        return await attempt.runtime.last_lines(swap)
    except RolloutError as error:
        return f"(the container's log cannot be read: {error})"


async def _put_back_outcome(attempt: Attempt, swap: Swap) -> Outcome:
    """Return the outcome of putting back, by what is observed to serve, which may be another than the old version."""
    reason = swap.reason or Reason(Code.INTERNAL, "the old version was put back")
    if swap.old is None:
        return Outcome(Status.FAILED, reason, log=swap.log)
    serving = await attempt.runtime.serving()
    if serving is None or not serving.running:
        return _failed(swap, reason, f"nothing serves {swap.serving_name} now: the old version could not be put back")
    new = serving.deployment_id == swap.deployment_id or (serving.object_id == swap.new)
    try:
        await attempt.runtime.check_restored(swap, serving)
    except Failed as error:
        what = "the new version, since the old one could not be put back" if new else "the old version"
        return _failed(swap, reason, f"{serving.name} is {what}, and is unhealthy: {error.reason.message}")
    if new:
        _LOG.warning("The old version is gone, so the new version serves", reason=reason.message)
        return await commit(attempt, swap)
    return Outcome(Status.ROLLED_BACK, reason, log=swap.log)


def _failed(swap: Swap, reason: Reason, serves: str) -> Outcome:
    return Outcome(Status.FAILED, Reason(reason.code, f"{reason.message}; {serves}"), log=swap.log)


def _was_removed(attempt: Attempt, error: Failed) -> bool:
    """Tell whether somebody removed the new container, and another attempt may create it again."""
    return error.reason.code is Code.CONTAINER_MISSING and attempt.task.deployment.attempts < MAX_REMOVED_ATTEMPTS
