"""Pull the image of a rollout. The pull begins before the registry has answered which image the rollout runs.

Most rollouts run the image that the push event named, so that image is pulled ahead. The registry's answer alone
decides what runs. Every image is recorded before its pull, so that the clean-up removes it once no container uses it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from gateway.background import beside
from gateway.docker.engine.errors import CANNOT_UNPACK
from gateway.model.deployments import Step
from gateway.model.errors import Code, Failed, GatewayError
from gateway.model.reference import Digest, Reference
from gateway.rollout.attempt import Attempt
from gateway.rollout.resolve import postpone_while_lagging, pushed_digest

_LOG = structlog.get_logger()


@asynccontextmanager
async def pull_ahead(attempt: Attempt) -> AsyncIterator[None]:
    """Pull the image that the push event named while the block runs. `pull` takes this pull over if it needs the image.

    Nothing is pulled ahead when the application has gates, since these decide what may be pulled.
    """
    wanted, digest = attempt.task.deployment.reference, pushed_digest(attempt.task)
    if wanted is None or digest is None or attempt.task.ask_gates is not None:
        yield
        return
    reference = wanted.with_digest(digest)
    async with beside(_pull_ahead(attempt, reference, digest)) as pulling:
        attempt.pulling = reference, pulling
        yield


async def _pull_ahead(attempt: Attempt, reference: Reference, digest: Digest) -> bool:
    """Pull the image; return whether that succeeded. If not, `pull` tries again and reports the error."""

    async def progress(summary: str) -> None:
        if attempt.journal.step is Step.PULL:
            await attempt.journal.quick_progress(summary)

    try:
        await attempt.journal.record_pull(digest)
        await attempt.runtime.pull(reference, progress)
    except GatewayError as error:
        _LOG.info("An image could not be pulled ahead", image=str(reference), error=str(error))
        return False
    return True


async def pull(attempt: Attempt, reference: Reference) -> None:
    """Pull the image of the new version. Raises Failed and Postponed."""
    try:
        with postpone_while_lagging(attempt, seen=True):
            if not await _was_pulled_ahead(attempt, reference):
                await attempt.runtime.pull(reference, attempt.journal.quick_progress)
    except Failed as error:
        raise await _explain_error(attempt, reference, error) from error


async def _was_pulled_ahead(attempt: Attempt, reference: Reference) -> bool:
    """Wait for the pull ahead, or cancel it if it is of another image. Return whether this image was pulled."""
    if attempt.pulling is None:
        return False
    ahead, pulling = attempt.pulling
    if ahead == reference:
        return await pulling
    pulling.cancel()
    return False


async def _explain_error(attempt: Attempt, reference: Reference, error: Failed) -> Failed:
    """Add to a pull's error what is known here: the login used, or the compression."""
    code, message = error.reason.code, error.reason.message
    if code is Code.DENIED:
        return Failed(code, f"{message} ({attempt.task.login.description})")
    if CANNOT_UNPACK in message:
        platform = attempt.context.identity.platform
        if await attempt.context.registry.has_zstd(reference, attempt.task.login, platform):
            return Failed(code, f"{message}: its layers are zstd-compressed, which needs Docker Engine 23 or newer")
    return error
