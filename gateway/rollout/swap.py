"""How the new version takes the old one's place: shown, exchanged, settled; or put back, whatever happens.

The swap is one record, written before it begins. From then on the database may go away: what is begun is finished from
memory and recorded after, and whoever comes after a crash settles the record first.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace

import structlog

from gateway.docker.engine.shield import run_to_completion
from gateway.docker.runtime import Serving
from gateway.model.deployments import Direction, LeaseLost, Outcome, Status, Step, Swap
from gateway.model.errors import Code, Failed, Postponed, Reason, RolloutError
from gateway.model.reference import Digest
from gateway.rollout.attempt import Attempt, check_deadline, swap_slot, within_deadline

_LOG = structlog.get_logger()

#: attempts, while somebody removes what was made
TAKEN_AWAY = 5
# Attempts at finishing a swap, and at putting one back, that was left open: then it ends as it is.
_FORWARD, _BACK = 6, 10
#: attempts at settling one that end on a defect, and all, whatever they end on: then it is only looked at and closed
MOST_DEFECTS, MOST_SETTLINGS = 5, 100
_OF_REGISTRIES = frozenset({Code.REGISTRY_UNREACHABLE, Code.RATE_LIMITED, Code.PULL_INTERRUPTED})


async def settle(attempt: Attempt, left_open: Swap) -> Outcome | None:
    """Finish our own swap; put any other back, and return how ours ended if that was it."""
    attempt.journal.note_step(Step.SETTLE, f"a swap was left open going {left_open.direction}")
    await attempt.journal.flush_if_possible()
    await attempt.journal.extend_lease_if_possible(attempt.runtime.longest_call())
    if left_open.defects >= MOST_DEFECTS or left_open.failed_resumptions >= MOST_SETTLINGS:
        return await _end_as_it_is(attempt, left_open)
    if await attempt.runtime.is_superseded(left_open):
        # The database is of a time before: it was restored.
        _LOG.warning("A newer deployment serves than the swap is of that was left open", swap=left_open.deployment_id)
        await attempt.journal.close_swap()
        return None
    ours = left_open.deployment_id == attempt.task.deployment.deployment_id
    wanted = attempt.task.deployment.cancelled_at is None
    patient = left_open.failed_resumptions < _FORWARD
    if ours and wanted and patient and left_open.direction is Direction.FORWARD:
        return await _swap(attempt, left_open, opened=True)
    await attempt.runtime.wait_out_pending_calls(left_open)
    try:
        await attempt.runtime.put_back(left_open)
    except Postponed as error:
        most = MOST_SETTLINGS if error.reason.code in _OF_REGISTRIES else _BACK
        if error.reason.code is Code.ENGINE_UNREACHABLE or left_open.failed_resumptions + 1 < most:
            raise
        _LOG.exception("A swap that was left open cannot be put back: it ends as it is")
        left_open = replace(left_open, reason=left_open.reason or error.reason)
    if ours and left_open.reason is not None:
        return await _put_back_outcome(attempt, left_open)
    await attempt.journal.close_swap()
    return None


async def _end_as_it_is(attempt: Attempt, swap: Swap) -> Outcome | None:
    """Close a record that nothing settles, and say what is observed to serve; the next deployment begins anew."""
    serving, seen = await _look(attempt, swap)
    attempts = swap.failed_resumptions + swap.defects
    told = f"the swap stayed open after {attempts} more attempts, and is closed as it is: {seen}"
    _LOG.error("A swap that was left open cannot be settled", swap=swap.deployment_id, seen=seen)
    attempt.context.send_alert(f"{attempt.task.application.name}: a swap is given up", told)
    if swap.deployment_id != attempt.task.deployment.deployment_id:
        await attempt.journal.close_swap()
        return None
    former = serving is not None and serving.running and serving.object_id == swap.old
    first = f"{swap.reason.message}; " if swap.reason else ""
    reason = Reason(swap.reason.code if swap.reason else Code.TOO_MANY_ATTEMPTS, first + told)
    return Outcome(Status.ROLLED_BACK if former else Status.FAILED, reason, log=swap.log)


async def _look(attempt: Attempt, swap: Swap) -> tuple[Serving | None, str]:
    """Return what serves, and in words; whatever hinders the look but an engine that is away is part of these."""
    name = swap.serving_name
    try:
        serving = await attempt.runtime.serving()
    except LeaseLost:
        raise
    except Exception as error:
        if isinstance(error, Postponed) and error.reason.code is Code.ENGINE_UNREACHABLE:
            raise
        _LOG.exception("What serves cannot be looked at")
        why = str(error) if isinstance(error, RolloutError) else "a defect of the gateway"
        return None, f"what serves {name} cannot be told: {why}"
    if serving is None or not serving.running:
        return serving, f"nothing serves {name}"
    if serving.object_id == swap.old:
        return serving, f"what served before serves {name}"
    if serving.deployment_id == swap.deployment_id or serving.object_id == swap.new:
        return serving, f"the new version runs as {name}, and was not proven"
    return serving, f"{name} is neither what served before nor the new version"


async def show(attempt: Attempt, swap: Swap) -> Outcome:
    """Let the new one prove itself beside the old, where the order allows, and then take its place."""
    if swap.starts_beside_old:
        await _or_discard(attempt, swap, _present(attempt, swap))
    return await _swap(attempt, swap)


async def _present(attempt: Attempt, swap: Swap) -> None:
    await attempt.journal.begin(Step.PROVE)
    async with swap_slot(attempt):
        await within_deadline(attempt, attempt.runtime.start_beside(swap))
    await within_deadline(attempt, attempt.runtime.wait_until_ready(swap))


async def _or_discard(attempt: Attempt, swap: Swap, act: Coroutine[object, object, None]) -> None:
    """Do it; where it fails, or we are told to stop, remove the new one, with the old one never touched."""
    try:
        await act
    except (Postponed, LeaseLost):
        raise  # whoever is claimed next clears it away
    except Failed as error:
        log = await _last_lines(attempt, swap)
        await run_to_completion(attempt.runtime.discard(replace(swap, reason=error.reason)))
        raise Failed(error.reason.code, error.reason.message, log=log) from error
    except BaseException:
        if not attempt.journal.lost:
            await run_to_completion(attempt.runtime.discard(swap))
        raise


async def _swap(attempt: Attempt, swap: Swap, *, opened: bool = False) -> Outcome:
    """From the record on the database may go away: what is begun is finished from memory and recorded after."""
    async with swap_slot(attempt):
        if not opened:
            await _or_discard(attempt, swap, check_deadline(attempt))
            await attempt.journal.open_swap(swap, longest_call=attempt.runtime.longest_call())
        ended = await _or_put_back(attempt, swap, _exchange(attempt, swap, again=opened))
    ended = ended or await _or_put_back(
        attempt, swap, _settled(attempt, swap, proven=swap.starts_beside_old and not opened)
    )
    return ended or await _commit(attempt, swap)


async def _exchange(attempt: Attempt, swap: Swap, *, again: bool) -> None:
    attempt.journal.note_step(Step.SWAP)
    if again and swap.starts_beside_old:
        # The engine may have been restarted since, and not have started it.
        await attempt.runtime.start_beside(swap)
    await attempt.runtime.switch_over(swap)


async def _settled(attempt: Attempt, swap: Swap, *, proven: bool) -> None:
    """Return once the new one serves by itself; `proven` is one that has shown beside the old that it can."""
    attempt.journal.note_step(Step.DRAIN if proven else Step.PROVE)
    await attempt.journal.flush_if_possible()
    await attempt.runtime.wait_until_ready(swap, again=proven)
    if swap.starts_beside_old:
        await attempt.runtime.stop_old(swap)


async def _or_put_back(attempt: Attempt, swap: Swap, act: Coroutine[object, object, None]) -> Outcome | None:
    """Do it; where it fails, or we are told to stop, put the old one back. None where it was done."""
    try:
        await within_deadline(attempt, act)
    except (Postponed, LeaseLost):
        raise  # the record stays open, for whoever is claimed next
    except Exception as error:
        if isinstance(error, Failed) and _taken_away(attempt, error):
            await run_to_completion(_turn_back(attempt, swap, None))
            raise
        if not isinstance(error, Failed):
            _LOG.exception("A swap failed on a defect")
        reason = error.reason if isinstance(error, Failed) else Reason(Code.INTERNAL, "the swap failed on a defect")
        return await run_to_completion(_turn_back(attempt, swap, reason))
    except asyncio.CancelledError:
        if not attempt.journal.lost:
            await run_to_completion(_turn_back(attempt, swap, None))
        raise
    return None


async def _turn_back(attempt: Attempt, swap: Swap, reason: Reason | None) -> Outcome:
    """Put the old one back, for a reason of the new one's; where there is none, it is tried again later."""
    log = await _last_lines(attempt, swap) if reason else ""
    back = replace(swap, direction=Direction.BACK, reason=reason, log=log)
    await attempt.journal.record_reversal(back)
    await attempt.runtime.put_back(back)
    if reason is None:
        await attempt.journal.close_swap_if_possible()
        return Outcome(Status.ROLLED_BACK)
    return await _put_back_outcome(attempt, back)


async def _commit(attempt: Attempt, swap: Swap) -> Outcome:
    """Make it lasting, and say what was observed to serve."""
    attempt.journal.note_step(Step.COMMIT)
    try:
        await attempt.runtime.clean_up(swap)
    except Failed:
        # What serves is proven; that tidying up is refused does not make it any less so.
        _LOG.warning("Cannot tidy up after a rollout", exc_info=True)
    serving = await attempt.runtime.serving()
    if serving is None or serving.digest is None or not serving.running:
        raise Postponed(Code.ENGINE_REFUSED, f"{swap.serving_name} was taken away while it was being committed")
    return Outcome(
        Status.SUCCEEDED,
        digest=Digest(serving.digest),
        spec_hash=serving.spec_hash,
        replaced=True,
        object_id=serving.object_id,
        restarts=serving.restarts,
    )


async def _last_lines(attempt: Attempt, swap: Swap) -> str:
    try:
        return await attempt.runtime.last_lines(swap)
    except RolloutError as error:
        return f"(the container's log cannot be read: {error})"


async def _put_back_outcome(attempt: Attempt, swap: Swap) -> Outcome:
    """Say what is observed to serve once it was put back, which need not be what was to."""
    reason = swap.reason or Reason(Code.INTERNAL, "it was put back")
    if swap.old is None:
        return Outcome(Status.FAILED, reason, log=swap.log)
    serving = await attempt.runtime.serving()
    if serving is None or not serving.running:
        return _failed(
            swap, reason, f"nothing serves {swap.serving_name} now: what served before could not be put back"
        )
    new = serving.deployment_id == swap.deployment_id or (serving.object_id == swap.new)
    try:
        await attempt.runtime.check_restored(swap, serving)
    except Failed as error:
        what = "the new version, since what served before could not be put back" if new else "what served before"
        return _failed(swap, reason, f"{serving.name} is {what}, and is not well: {error.reason.message}")
    if new:
        _LOG.warning("What was to be put back is gone, and the new version serves", reason=reason.message)
        return await _commit(attempt, swap)
    return Outcome(Status.ROLLED_BACK, reason, log=swap.log)


def _failed(swap: Swap, reason: Reason, serves: str) -> Outcome:
    return Outcome(Status.FAILED, Reason(reason.code, f"{reason.message}; {serves}"), log=swap.log)


def _taken_away(attempt: Attempt, error: Failed) -> bool:
    """Tell whether somebody has removed what was made, so that it is to be made again."""
    return error.reason.code is Code.CONTAINER_MISSING and attempt.task.deployment.attempts < TAKEN_AWAY
