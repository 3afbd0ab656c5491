"""Resolve a tag to a digest. A registry may report a push before it serves it, since its replicas and caches lag.

While the registry does not answer with the pushed digest, the gateway asks again: at first within the attempt, then by
postponing the deployment, which frees its slot. It asks again

    if the tag or image is not found                        for as long as a registry may lag
    if the application ran the answered digest before       for as long, since the push is probably not visible yet
    if the pushed digest exists beside the answered one     for a part of that time, since a newer push may have come

Then it believes the registry's answer.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from gateway.background import beside
from gateway.model.deployments import Kind, Step
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.reference import DOCKER_HUB, Digest, Reference
from gateway.registry.client import Resolved
from gateway.rollout.attempt import Attempt, Task

# Seconds between the first requests.
_RETRY_DELAYS = (0.2, 0.5, 1.0)
_SOON = 0.2  # seconds
_EXPECTED_PRESENT_PART = 0.25  # of the time that a registry may lag


@asynccontextmanager
async def ask_beside(attempt: Attempt) -> AsyncIterator[None]:
    """Ask the registry, while the block runs, which digest the deployment's reference names, for `resolve`.

    Also asks for the manifest of the digest that the push event named, since the client caches the answer.
    """
    task, registry = attempt.task, attempt.context.registry
    if (wanted := _asked_reference(task)) is None:
        yield
        return
    async with AsyncExitStack() as stack:
        attempt.asked = await stack.enter_async_context(beside(registry.resolve(wanted, task.login)))
        if (pushed := pushed_digest(task)) is not None:
            _ = await stack.enter_async_context(beside(registry.describe(wanted.with_digest(pushed), task.login)))
        yield


def _asked_reference(task: Task) -> Reference | None:
    """Return the reference that the rollout is going to resolve, if it resolves one."""
    if (
        task.config_error is not None
        or task.deployment.cancelled_at is not None
        or task.prepared is not None
        or task.deployment.kind not in {Kind.DEPLOY, Kind.REDEPLOY}
    ):
        return None
    return task.deployment.reference


def pushed_digest(task: Task) -> Digest | None:
    """Return the digest that the push event named, and that the rollout will most likely run.

    Returns None for Docker Hub, where each request counts as a pull.
    """
    wanted = _asked_reference(task)
    if wanted is None or wanted.repository.domain == DOCKER_HUB:
        return None
    return task.deployment.expected_digest


async def resolve(attempt: Attempt) -> tuple[Resolved, Reference]:
    """Resolve the deployment's reference; raises Failed, or Postponed while the registry may lag."""
    task, wanted = attempt.task, _reference(attempt.task)
    attempt.journal.note_step(Step.RESOLVE, str(wanted))
    if not await _answers_soon(attempt):
        await attempt.journal.flush()  # after a quick answer, the next step writes it: nothing is changed until then
    with postpone_while_lagging(attempt):
        try:
            resolved = await _resolve_expected(attempt, wanted)
        except Failed as error:
            if error.reason.code is not Code.NOT_FOUND or _may_lag(attempt):
                raise
            raise await attempt.context.registry.explain_missing(wanted, task.login) or error from error
    expected = task.deployment.expected_digest
    if expected and resolved.digest != expected and await _is_behind(attempt, wanted, resolved.digest):
        raise _postponed(attempt, f"{wanted} is still {resolved.digest}; the push event named {expected}")
    check_platform(wanted, resolved.platforms, attempt)
    attempt.journal.note_digest(resolved.digest)
    return resolved, wanted.with_digest(resolved.digest)


def check_platform(reference: Reference, platforms: Collection[str], attempt: Attempt) -> None:
    """Raise Failed when the image is not for the engine's platform."""
    engine = attempt.context.identity.platform
    if platforms and engine not in platforms:
        raise Failed(
            Code.WRONG_ARCHITECTURE, f"{reference} is for {', '.join(sorted(platforms))}; the engine is {engine}"
        )


def digest_mismatch(task: Task, digest: Digest) -> str:
    """Return a note when the push event named another digest, else an empty string."""
    expected = task.deployment.expected_digest
    return "" if expected in {None, digest} else f"; the push event named {expected}, but the tag points elsewhere"


@contextmanager
def postpone_while_lagging(attempt: Attempt, *, seen: bool = False) -> Iterator[None]:
    """Postpone when a reported push, or an image that was `seen` a moment ago, is not found yet."""
    try:
        yield
    except Failed as error:
        if error.reason.code is not Code.NOT_FOUND or not _may_lag(attempt, seen=seen):
            raise
        raise _postponed(attempt, error.reason.message) from error


def _reference(task: Task) -> Reference:
    if task.deployment.reference is None:
        raise Failed(Code.NO_IMAGE, f"{task.application.name} has no image yet")
    return task.deployment.reference


async def _resolve_expected(attempt: Attempt, wanted: Reference) -> Resolved:
    """Ask until the registry answers with the pushed digest; return its last answer. Raises Failed or Postponed."""
    task, expected = attempt.task, attempt.task.deployment.expected_digest
    for delay in _RETRY_DELAYS if expected and _seconds_waited(task) == 0 else ():
        try:
            resolved = await _ask(attempt, wanted)
        except Failed as error:
            if error.reason.code is not Code.NOT_FOUND:
                raise
        else:
            if resolved.digest == expected:
                return resolved
        await asyncio.sleep(delay)
    return await _ask(attempt, wanted)


async def _ask(attempt: Attempt, wanted: Reference) -> Resolved:
    """Return the registry's answer. The first call takes the answer to the request that `ask_beside` sent."""
    asked, attempt.asked = attempt.asked, None
    return await (asked or attempt.context.registry.resolve(wanted, attempt.task.login))


async def _answers_soon(attempt: Attempt) -> bool:
    """Wait a moment for the answer to the request that `ask_beside` sent; return whether it has come."""
    return attempt.asked is not None and bool((await asyncio.wait([attempt.asked], timeout=_SOON))[0])


async def _is_behind(attempt: Attempt, wanted: Reference, digest: Digest) -> bool:
    """Tell whether the digest is probably what the tag named before the push."""
    task = attempt.task
    if not _may_lag(attempt):
        return False
    serving = await attempt.runtime.serving()
    if (serving is not None and serving.digest == digest) or await task.knows(digest):
        return True
    if task.deployment.expected_digest is None or not _may_lag(attempt, _EXPECTED_PRESENT_PART):
        return False
    return await attempt.context.registry.has(wanted.with_digest(task.deployment.expected_digest), task.login)


def _may_lag(attempt: Attempt, part: float = 1.0, *, seen: bool = False) -> bool:
    """Tell whether a push was reported so recently that the registry may not serve it yet.

    `part` shortens the time for which a registry may lag. `seen`: the registry has served the image before.
    """
    deployment = attempt.task.deployment
    if deployment.kind is Kind.ROLLBACK:
        return False
    reported = seen or deployment.expected_digest is not None or not deployment.forced
    return reported and _seconds_waited(attempt.task) < attempt.context.registry_lag * part


def _seconds_waited(task: Task) -> int:
    """Return the seconds that `_postponed` has delayed the deployment, estimated from its attempts."""
    return (1 << min(max(task.deployment.attempts - 1, 0), 20)) - 1


def _postponed(attempt: Attempt, message: str) -> Postponed:
    return Postponed(
        Code.NOT_FOUND,
        f"{message}; a registry may lag behind the pushes it reports, so the gateway asks again",
        retry_after=_seconds_waited(attempt.task) + 1.0,
    )
