"""Windows, maturity and approvals in real rollouts."""

from datetime import UTC, datetime, timedelta

import pytest

from gateway.admin import approvals as people
from gateway.admin import gates as admin
from gateway.admin.approvals import Given
from gateway.cli.demo.process import until
from gateway.model.approvals import AnswerKind, Approver
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, Conflict, InvalidInput
from gateway.store import gate_verdicts
from gateway.worker.supervisor import Supervisor
from tests.integration.worker.test_gates import asked, gate, verdicts, waiting
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, RecordedAlerts

OPERATOR = Approver.of_command_line("root")
APPROVE = Given(AnswerKind.APPROVE)


def frozen_now() -> list[dict[str, object]]:
    """Return the windows of a freeze from yesterday to the day after tomorrow."""
    now = datetime.now(UTC)
    return [{"dates": [f"{now - timedelta(days=1):%Y-%m-%d}..{now + timedelta(days=2):%Y-%m-%d}"], "zone": "UTC"}]


async def open_approval(app: DeployedApp, *, but: str | None = None) -> str:
    """Wait until people are asked, other than by `but`, and return the approval."""

    async def look() -> str | None:
        found: str | None = await app.pool.fetchval(
            "SELECT approval_id FROM approvals WHERE application_id = $1 AND closed_at IS NULL"
            " AND approval_id IS DISTINCT FROM $2",
            app.application_id,
            but,
        )
        return found

    return await until(look)


async def test_a_deployment_waits_for_the_window_and_for_no_longer(app: DeployedApp, pushes: Pushes) -> None:
    gate_id = await gate(app, "window", mode="freeze", windows=frozen_now(), wait=60)
    await pushes("v1")
    deployment_id = await asked(app)
    waits = await waiting(app, deployment_id)
    assert waits.reason is not None
    assert waits.reason.code is Code.OUTSIDE_WINDOW
    # It waits for the opening, however short the longest wait is.
    await app.pool.execute("UPDATE gate_verdicts SET first_asked_at = first_asked_at - interval '1 day'")
    async with app.pool.acquire() as connection:
        await gate_verdicts.wake(connection, [deployment_id])
    await waiting(app, deployment_id)
    with pytest.raises(InvalidInput, match="open"):
        await admin.update(app.pool, VAULT, gate_id, rule={"mode": "freeze", "windows": [{"zone": "UTC"}]})
    await admin.update(app.pool, VAULT, gate_id, rule={"mode": "deploy", "windows": [{"zone": "UTC"}]})
    assert (await app.ended(deployment_id)).status is Status.SUCCEEDED


async def test_a_deployment_waits_until_its_digest_has_been_out_for_long_enough(
    app: DeployedApp, pushes: Pushes
) -> None:
    await gate(app, "maturity", age="3d")
    digest = await pushes("v1")
    deployment_id = await asked(app)
    waits = await waiting(app, deployment_id)
    assert waits.reason is not None
    assert waits.reason.code is Code.TOO_NEW
    await app.pool.execute("UPDATE first_seen SET seen_at = seen_at - interval '3 days' WHERE digest = $1", digest)
    async with app.pool.acquire() as connection:
        await gate_verdicts.wake(connection, [deployment_id])
    assert (await app.ended(deployment_id)).status is Status.SUCCEEDED


async def test_what_people_approved_is_what_runs(
    app: DeployedApp, pushes: Pushes, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = RecordedAlerts()
    settings = supervisor.context.settings.model_copy(update={"public_url": "https://gateway.example.com"})
    monkeypatch.setattr(supervisor.context, "alerts", alerts)
    monkeypatch.setattr(supervisor.context, "settings", settings)
    await gate(app, "approval", count=1, link=True)
    await pushes("v1")
    deployment_id = await asked(app)
    first = await open_approval(app)
    await waiting(app, deployment_id)
    await app.set(environment="LEVEL=debug")
    with pytest.raises(Conflict, match="configuration has changed"):
        await people.answer(app.pool, first, OPERATOR, APPROVE)
    second = await open_approval(app, but=first)
    with pytest.raises(Conflict, match="asks about"):
        await people.answer(app.pool, first, OPERATOR, APPROVE)
    await people.answer(app.pool, second, OPERATOR, APPROVE)
    done = await app.ended(deployment_id)
    assert done.status is Status.SUCCEEDED
    running = await app.engine.call("GET", f"containers/app-{app.application_id}/json")
    assert "LEVEL=debug" in running["Config"]["Env"]
    assert (await verdicts(app, deployment_id))[0].reason.message == "approved by root"
    told = [one.body for one in alerts if "waits at the gate" in one.title]
    assert [("https://gateway.example.com/approvals/" in body) for body in told] == [True, True]
    assert first in told[0]
    assert second in told[1]


async def test_a_gate_that_is_removed_asks_nothing_any_more(app: DeployedApp, pushes: Pushes) -> None:
    gate_id = await gate(app, "approval", count=1)
    await pushes("v1")
    deployment_id = await asked(app)
    approval_id = await open_approval(app)
    await waiting(app, deployment_id)
    await admin.remove(app.pool, VAULT, gate_id)
    assert (await app.ended(deployment_id)).status is Status.SUCCEEDED
    with pytest.raises(Conflict):
        await people.answer(app.pool, approval_id, OPERATOR, APPROVE)
    assert await app.pool.fetchval("SELECT closed_at FROM approvals WHERE approval_id = $1", approval_id)


async def test_a_rejection_ends_the_deployment_and_a_rollback_asks_nobody(app: DeployedApp, pushes: Pushes) -> None:
    for version in ("v1", "v2"):
        await pushes(version)
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await gate(app, "approval", count=1)
    await gate(app, "window", mode="freeze", windows=frozen_now())
    await pushes("v3")
    deployment_id = await asked(app)
    approval_id = await open_approval(app)
    await people.answer(app.pool, approval_id, OPERATOR, Given(AnswerKind.REJECT, "not before the audit"))
    failed = await app.ended(deployment_id)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.APPROVAL_REJECTED)
    assert failed.reason.message == "gate approval: root rejected it: not before the audit"
    rolled_back = await app.roll_back()
    assert rolled_back.status is Status.SUCCEEDED
    assert {one.reason.message for one in await verdicts(app, rolled_back.deployment_id)} == {
        "not asked: this version has served before, and a rollback to such a version passes"
    }
