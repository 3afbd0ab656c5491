"""Images that must be signed, deployed from a real registry."""

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from gateway.admin import gates as admin
from gateway.cli.demo.process import until
from gateway.model.deployments import Kind, Status, Step
from gateway.model.errors import Code, Reason
from gateway.model.gates import Level, Verdict
from gateway.model.reference import Digest, Reference
from gateway.queue import enqueue
from gateway.store import applications, deployments, gate_verdicts
from gateway.store.gates import Owner
from tests.support.attaching import Signable
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp
from tests.support.signing import SigningKey, signed_bundle, simple_payload, statement


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


async def require_signature(app: DeployedApp, key: SigningKey, **rule: object) -> None:
    owner = Owner(Level.APPLICATION, app.application_id)
    _ = await admin.create(app.pool, VAULT, owner, kind="signature", rule={"keys": [key.public], **rule})


def image(session: aiohttp.ClientSession, pushes: Pushes, digest: Digest) -> Signable:
    return Signable(session, Reference.parse(pushes.name()).with_digest(digest))


async def sign(signed: Signable, key: SigningKey) -> None:
    content = simple_payload(signed.digest)
    await signed.sign(content, key.sign(content))


async def test_a_deployment_waits_for_a_late_signature_and_runs_what_was_signed(
    app: DeployedApp, pushes: Pushes, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    key = SigningKey.generate(tmp_path)
    await require_signature(app, key)
    digest = await pushes("v1")
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    deployment_id = await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked")

    async def waits() -> Reason | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, deployment_id)
        return found.reason if found.status is Status.QUEUED else None

    assert (await until(waits)).code is Code.UNSIGNED
    async with app.pool.acquire() as connection:
        (waiting,) = await gate_verdicts.select_verdicts(connection, deployment_id)
    assert datetime.fromisoformat(waiting.evidence["waitsSince"]) == waiting.first_asked_at
    # As cosign 3 does it, and in the registry's index of referrers, since this registry has no API for them.
    signed = image(session, pushes, digest)
    await signed.list_referrers(await signed.referrer(signed_bundle(key, statement(digest))))

    done = await app.ended(deployment_id)
    assert (done.status, done.digest, done.attempts) == (Status.SUCCEEDED, digest, 1)
    async with app.pool.acquire() as connection:
        (verdict,) = await gate_verdicts.select_verdicts(connection, deployment_id)
    assert (verdict.verdict, len(verdict.evidence["signers"])) == (Verdict.PASSED, 1)


@pytest.mark.long
async def test_an_image_that_others_signed_is_refused_and_what_serves_stays(
    app: DeployedApp, pushes: Pushes, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    await require_signature(app, SigningKey.generate(tmp_path), wait=1)
    await sign(image(session, pushes, await pushes("v2")), SigningKey.generate(tmp_path, "Ed25519"))

    failed = await app.ask(Kind.DEPLOY)

    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.UNSIGNED)
    assert "of the 1 found none counts: one is signed by nobody who is trusted" in failed.reason.message
    assert Step.PULL not in await app.steps(failed)
    assert [one.container_id for one in await app.containers()] == [before.container_id]
