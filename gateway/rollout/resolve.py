"""What a tag names, where a registry tells of a push before it answers with it: its replicas and caches lag behind.

A push that was told is waited for, first here, then postponed, its slot free meanwhile:

    no such tag, or image                       for as long as a registry may lag
    what the application was deployed with      for as long, since the push is not seen yet
    anything else, while what was told is there for a part of it, since a newer push may have come after

and then what the registry says is believed.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from gateway.model.deployments import Kind, Step
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.reference import Digest, Reference
from gateway.registry.client import Resolved
from gateway.rollout.attempt import Attempt, Task

# Seconds between the first looks.
_LOOKS = (0.2, 0.5, 1.0)
_PART = 0.25  # of the time a registry may lag


async def resolve(attempt: Attempt) -> tuple[Resolved, Reference]:
    """Return what the tag means now; raises Failed, or Postponed while that is not what was told."""
    task, wanted = attempt.task, _reference(attempt.task)
    await attempt.journal.begin(Step.RESOLVE, str(wanted))
    with postpone_while_lagging(attempt):
        try:
            resolved = await _look(attempt, wanted)
        except Failed as error:
            if error.reason.code is not Code.NOT_FOUND or _may_lag(attempt):
                raise
            raise await attempt.context.registry.explain_missing(wanted, task.login) or error from error
    expected = task.deployment.expected_digest
    if expected and resolved.digest != expected and await _is_behind(attempt, wanted, resolved.digest):
        raise _later(attempt, f"{wanted} is still {resolved.digest}; the push told was of {expected}")
    check_platform(wanted, resolved.platforms, attempt)
    await attempt.journal.record_digest(resolved.digest)
    return resolved, wanted.with_digest(resolved.digest)


def check_platform(reference: Reference, platforms: Collection[str], attempt: Attempt) -> None:
    """Raise Failed where the image is for other platforms than the engine's."""
    engine = attempt.context.identity.platform
    if platforms and engine not in platforms:
        raise Failed(
            Code.WRONG_ARCHITECTURE, f"{reference} is for {', '.join(sorted(platforms))}; the engine is {engine}"
        )


def digest_mismatch(task: Task, digest: Digest) -> str:
    """Say, where it is so, that a push of another image was told."""
    expected = task.deployment.expected_digest
    return "" if expected in {None, digest} else f"; the push told was of {expected}, which the tag does not name"


@contextmanager
def postpone_while_lagging(attempt: Attempt, *, seen: bool = False) -> Iterator[None]:
    """Postpone what is not found yet, of a push that was told, or of an image that was `seen`, a moment ago."""
    try:
        yield
    except Failed as error:
        if error.reason.code is not Code.NOT_FOUND or not _may_lag(attempt, seen=seen):
            raise
        raise _later(attempt, error.reason.message) from error


def _reference(task: Task) -> Reference:
    if task.deployment.reference is None:
        raise Failed(Code.NO_IMAGE, f"{task.application.name} has no image yet")
    return task.deployment.reference


async def _look(attempt: Attempt, wanted: Reference) -> Resolved:
    """Look until the registry answers what the push named, and return its last answer; raises Failed or Postponed."""
    context, task, expected = attempt.context, attempt.task, attempt.task.deployment.expected_digest
    for delay in _LOOKS if expected and _waited(task) == 0 else ():
        try:
            resolved = await context.registry.resolve(wanted, task.login)
        except Failed as error:
            if error.reason.code is not Code.NOT_FOUND:
                raise
        else:
            if resolved.digest == expected:
                return resolved
        await asyncio.sleep(delay)
    return await context.registry.resolve(wanted, task.login)


async def _is_behind(attempt: Attempt, wanted: Reference, found: Digest) -> bool:
    """Tell whether this is likely what the tag meant before the push."""
    task = attempt.task
    if not _may_lag(attempt):
        return False
    serving = await attempt.runtime.serving()
    if (serving is not None and serving.digest == found) or await task.knows(found):
        return True
    if task.deployment.expected_digest is None or not _may_lag(attempt, _PART):
        return False
    return await attempt.context.registry.has(wanted.with_digest(task.deployment.expected_digest), task.login)


def _may_lag(attempt: Attempt, part: float = 1.0, *, seen: bool = False) -> bool:
    """Tell whether a push was told, so lately that the registry may not answer with it yet."""
    deployment = attempt.task.deployment
    if deployment.kind is Kind.ROLLBACK:
        return False
    told = seen or deployment.expected_digest is not None or not deployment.forced
    return told and _waited(attempt.task) < attempt.context.registry_lag * part


def _waited(task: Task) -> int:
    """Return the seconds that it was postponed for by `_later`, as far as its attempts tell."""
    return (1 << min(max(task.deployment.attempts - 1, 0), 20)) - 1


def _later(attempt: Attempt, message: str) -> Postponed:
    return Postponed(
        Code.NOT_FOUND,
        f"{message}; a registry may lag behind what it tells, so it is asked again",
        retry_after=_waited(attempt.task) + 1.0,
    )
