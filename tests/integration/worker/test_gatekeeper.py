"""What the answers of gates do to a deployment, whatever happens meanwhile: without an engine."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from gateway.gates import catalog
from gateway.model.deployments import LeaseLost
from gateway.model.errors import AtGate, Code, Failed, Postponed
from gateway.model.gates import Candidate, Decision, GateSetting, Verdict, passed, unknown
from gateway.queue import cancel, enqueue
from gateway.store import applications, deployments, gate_verdicts, gates, queue
from tests.support.api_client import VAULT, Web
from tests.support.gatekeeping import Attempts, digest
from tests.support.rollout_env import RecordedAlerts
from tests.support.served_versions import record_version
from tests.support.told_gate import PASSES, REFUSES, WAITS, Told


@pytest.fixture
async def told(web: Web, monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    kinds = {
        "told": told.gate(),
        "frozen": told.gate(lets_rollbacks_pass=True),
        "person": told.gate(invite=told.invite),
    }
    monkeypatch.setattr(catalog, "GATES", kinds)
    await web.mutate("application.create", name="web", applicationId="web", dockerImage="acme/web")
    return told


@pytest.fixture
def attempts(web: Web, told: Told) -> Attempts:
    _ = told
    return Attempts(web.pool, catalog.GATES, RecordedAlerts())


async def deploy(web: Web, procedure: str = "application.deploy") -> str:
    _, _ = await web.post(f"/api/{procedure}", {"applicationId": "web"})
    return str((await web.query("deployment.all", applicationId="web"))[0]["deploymentId"])


async def one(web: Web, deployment_id: str) -> dict[str, Any]:
    row: dict[str, Any] = await web.query("deployment.one", deploymentId=deployment_id)
    return row


async def due(web: Web, *, minutes: int = 0) -> None:
    """Let what is queued be due, and all that was asked be asked so many minutes earlier."""
    await web.pool.execute("UPDATE deployments SET next_attempt_at = now() WHERE status = 'queued'")
    await web.pool.execute(
        "UPDATE gate_verdicts SET first_asked_at = first_asked_at - make_interval(mins => $1)", minutes
    )


async def test_a_deployment_shows_what_its_gates_answered(web: Web, told: Told, attempts: Attempts) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    later = datetime.now(UTC) + timedelta(days=2)
    told.answers["it"] = unknown(Code.TOO_NEW, "not yet", {"age": 3}, ask_again_at=later)
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    row = await one(web, deployment_id)
    assert (row["state"], row["attempts"], row["reason"]["code"]) == ("queued", 0, "too_new")
    assert row["waitsFor"].startswith("the gate told, which is asked again at the latest at ")
    (answer,) = row["gates"]
    assert (answer["verdict"], answer["message"], answer["evidence"]) == ("unknown", "not yet", {"age": 3})
    assert (answer["digest"], answer["askAgainAt"]) == (digest(1), later.isoformat())


async def test_two_gates_that_refuse_are_both_named(web: Web, told: Told, attempts: Attempts) -> None:
    for name in ("a", "b"):
        await web.mutate("gate.create", applicationId="web", kind="told", name=name)
    told.answers["it"] = REFUSES
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    row = await one(web, deployment_id)
    assert (row["state"], row["reason"]["code"]) == ("failed", "gate_refused")
    assert row["reason"]["message"] == "gate a: it may not; b refuse it too"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Postponed(Code.REGISTRY_UNREACHABLE, "nobody answers"), Code.REGISTRY_UNREACHABLE, "nobody answers"),
        (RuntimeError("x"), Code.GATE_UNANSWERED, "the gate failed on a defect of the gateway: RuntimeError"),
        (Failed(Code.DENIED, "no"), Code.GATE_UNANSWERED, "the gate failed on a defect of the gateway: Failed"),
    ],
    ids=["postponed", "a defect", "what it must not raise"],
)
async def test_what_prevents_an_answer_is_unknown(
    web: Web, told: Told, attempts: Attempts, error: Exception, code: Code, message: str
) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    told.error = error
    deployment_id = await deploy(web)
    assert await attempts.run(digest(1)) is None
    (answer,) = (await one(web, deployment_id))["gates"]
    assert (answer["verdict"], answer["code"], answer["message"]) == ("unknown", code, message)


async def test_a_kind_or_a_rule_that_a_gateway_does_not_know_is_unknown(
    web: Web, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    await web.pool.execute("UPDATE gates SET rule = '{\"newer\": 1}'")
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    (answer,) = (await one(web, deployment_id))["gates"]
    assert answer["message"].startswith("its rule is not valid, set it again: rule.newer: ")
    monkeypatch.setattr(attempts, "gates", {})
    await due(web)
    await attempts.run(digest(1))
    (answer,) = (await one(web, deployment_id))["gates"]
    assert answer["message"] == "this gateway knows no gate of kind told: update it, or remove the gate"


# -- the longest wait


async def test_the_longest_wait_counts_from_the_first_question_about_the_digest(
    web: Web, told: Told, attempts: Attempts
) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told", rule={"wait": 600})
    told.answers["it"] = WAITS
    await deploy(web)
    await attempts.run(digest(1))
    await due(web, minutes=7)
    # A push of the same image joins, a redeploy supersedes: neither starts the wait anew.
    await deploy(web)
    await attempts.run(digest(1))
    deployment_id = await deploy(web, "application.redeploy")
    await attempts.run(digest(1))
    assert (await one(web, deployment_id))["state"] == "queued"
    # A gateway that was killed while it asked neither.
    await due(web, minutes=4)
    killed = await attempts.claim(lease=0.0)
    assert killed is not None
    told.meanwhile = LeaseLostMeanwhile(attempts)
    with pytest.raises(LeaseLost):
        await attempts.ask(killed, digest(1))
    told.meanwhile = None
    row = await one(web, deployment_id)
    assert row["state"] == "failed"
    assert row["reason"]["code"] == Code.GATE_EXPIRED
    assert "gate told did not let it pass within 600 s" in row["reason"]["message"]


class LeaseLostMeanwhile:
    """Another gateway takes over while the gates are asked, and does the same."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._done = False

    async def __call__(self) -> None:
        if not self._done:
            self._done = True
            await self._attempts.run(digest(1), claimed=await self._attempts.claim(owner="another"))


async def test_another_digest_has_a_wait_of_its_own(web: Web, told: Told, attempts: Attempts) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told", rule={"wait": 600})
    told.answers["it"] = WAITS
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    await due(web, minutes=11)
    await attempts.run(digest(2))
    assert (await one(web, deployment_id))["state"] == "queued"


async def test_retries_count_from_the_end_of_the_wait(web: Web, told: Told, attempts: Attempts) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    told.answers["it"] = WAITS
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    await web.pool.execute("UPDATE deployments SET requested_at = now() - interval '9 days'")
    await due(web)
    told.answers["it"] = PASSES
    claimed = await attempts.claim()
    assert claimed is not None
    await attempts.ask(claimed, digest(1))
    async with web.pool.acquire() as connection:
        assert await deployments.select_seconds_since_request(connection, deployment_id) < 60


# -- verdicts that hold


async def test_a_verdict_is_taken_over_while_it_holds_for_the_same(web: Web, told: Told, attempts: Attempts) -> None:
    gate = await web.mutate("gate.create", applicationId="web", kind="told")
    told.answers["it"] = passed("it may", true_until=datetime.now(UTC) + timedelta(days=1))

    async def asks(number: int = 1) -> int:
        await deploy(web, "application.redeploy")
        before = len(told.asked)
        assert await attempts.run(digest(number)) is not None
        return len(told.asked) - before

    assert [await asks(), await asks(), await asks(2), await asks(2)] == [1, 0, 1, 0]
    await web.mutate("gate.update", gateId=gate["gateId"], rule={"key": "another"})
    assert await asks() == 1
    await web.mutate("gate.update", gateId=gate["gateId"], rule={})
    await web.pool.execute("UPDATE gate_verdicts SET true_until = now() - interval '1 second'")
    assert await asks() == 1
    # It was given while the clock was a year ahead.
    await web.pool.execute(
        "UPDATE gate_verdicts SET asked_at = asked_at + interval '1 year', true_until = now() + interval '1 year'"
    )
    assert await asks() == 1


async def test_what_a_release_has_prepared_is_not_asked_again_unless_its_configuration_or_its_gates_changed(
    web: Web, told: Told, attempts: Attempts
) -> None:
    gate = await web.mutate("gate.create", applicationId="web", kind="told")
    await deploy(web)
    claimed = await attempts.claim()
    assert claimed is not None
    await attempts.ask(claimed, digest(1))
    candidate = told.asked[0]
    assert await attempts.keeper.recall(candidate) == "passed when it was prepared"
    for changed in (replace(candidate, spec_hash="changed"), replace(candidate, digest=digest(2))):
        with pytest.raises(Failed, match="its configuration changed after its gates had let it pass"):
            await attempts.keeper.recall(changed)
    added = await web.mutate("gate.create", applicationId="web", kind="told", name="new")
    with pytest.raises(Failed, match="gate new was set or changed while it waited for its release"):
        await attempts.keeper.recall(candidate)
    await web.mutate("gate.remove", gateId=added["gateId"])
    await web.mutate("gate.update", gateId=gate["gateId"], rule={"key": "another"})
    with pytest.raises(Failed, match="gate told was set or changed"):
        await attempts.keeper.recall(candidate)
    assert len(told.asked) == 1


# -- what wakes a deployment


async def asks_at_once(web: Web) -> bool:
    return bool(await web.pool.fetchval("SELECT next_attempt_at <= now() FROM deployments WHERE status = 'queued'"))


async def test_a_gate_that_is_removed_while_it_is_read_keeps_nothing_waiting(
    web: Web, told: Told, attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await web.mutate("gate.create", applicationId="web", kind="told")
    told.answers["it"] = unknown(Code.TOO_NEW, "not yet", ask_again_at=datetime.now(UTC) + timedelta(days=2))
    await deploy(web)
    read = gates.select_gates

    async def read_and_remove(*given: Any) -> list[GateSetting]:
        found = await read(*given)
        monkeypatch.undo()
        await web.mutate("gate.remove", gateId=gate["gateId"])
        return found

    monkeypatch.setattr(gates, "select_gates", read_and_remove)
    await attempts.run(digest(1))
    assert await asks_at_once(web)


async def test_a_move_away_from_a_gate_lets_what_waits_there_ask_at_once(
    web: Web, told: Told, attempts: Attempts
) -> None:
    places = [(await web.mutate("project.create", name=name))["environment"]["environmentId"] for name in ("a", "b")]
    await web.mutate("gate.create", environmentId=places[0], kind="told")
    told.answers["it"] = unknown(Code.TOO_NEW, "not yet", ask_again_at=datetime.now(UTC) + timedelta(days=2))
    await web.mutate("application.move", applicationId="web", targetEnvironmentId=places[0])
    await deploy(web)
    await attempts.run(digest(1))
    assert not await asks_at_once(web)
    await web.mutate("application.move", applicationId="web", targetEnvironmentId=places[1])
    assert await asks_at_once(web)


# -- rollbacks


async def roll_back(
    web: Web, attempts: Attempts, told: Told, *, forced: bool, answer: Decision
) -> list[dict[str, Any]]:
    await deploy(web)
    served = await attempts.run(digest(1))
    assert served is not None
    for kind in ("frozen", "told"):
        await web.mutate("gate.create", applicationId="web", kind=kind)
    told.answers["it"] = answer
    made = await web.pool.fetchval(
        "INSERT INTO deployments (application_id, kind, forced, title, reference, rolls_back_to)"
        " VALUES ('web', 'rollback', $1, '', 'docker.io/acme/web:latest', $2) RETURNING deployment_id",
        forced,
        served.deployment_id,
    )
    claimed = await attempts.claim()
    assert claimed is not None
    with suppress(AtGate, Failed):
        await attempts.ask(claimed, digest(1), served_before=True)
    gates: list[dict[str, Any]] = (await one(web, made))["gates"]
    return gates


async def test_a_persons_rollback_passes_gates_about_time_and_says_so(web: Web, told: Told, attempts: Attempts) -> None:
    frozen, about_image = await roll_back(web, attempts, told, forced=True, answer=REFUSES)
    assert frozen["verdict"] == "passed"
    assert frozen["message"] == "not asked: this version has served before, and a rollback to such a version passes"
    assert about_image["verdict"] == "refused"


async def test_no_gate_leaves_a_broken_version_serving(web: Web, told: Told, attempts: Attempts) -> None:
    gates = await roll_back(web, attempts, told, forced=False, answer=REFUSES)
    assert [one["verdict"] for one in gates] == ["passed", "passed"]
    assert gates[0]["message"].startswith("not asked: the gateway itself brings back a version that has served")
    assert told.asked == []


async def test_the_gateways_own_rollback_goes_ahead_of_what_waits_at_a_gate_and_loses_nothing(
    web: Web, told: Told, attempts: Attempts
) -> None:
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "web")
    await deploy(web)
    served = await attempts.run(digest(1))
    assert served is not None
    await web.mutate("gate.create", applicationId="web", kind="told", rule={"wait": 600})
    told.answers["it"] = WAITS
    waits = await deploy(web)
    async with web.pool.acquire() as connection:
        await record_version(connection, served.deployment_id, application)
        assert not await queue.is_free(connection, "web")
        await attempts.run(digest(2))
        assert await queue.is_free(connection, "web")  # to heal it, among others
        back = await enqueue.enqueue_rollback(
            connection, VAULT, application, to=served.deployment_id, title="Heal", forced=False
        )
    await due(web, minutes=11)
    assert await attempts.run(digest(1), served_before=True) is not None
    again = (await web.query("deployment.all", applicationId="web"))[0]
    assert [(await one(web, each))["state"] for each in (waits, back)] == ["superseded", "succeeded"]
    assert (again["state"], again["kind"], again["requestedBy"]) == ("queued", "deploy", "tests")
    assert (await one(web, waits))["supersededBy"] == again["deploymentId"]
    await attempts.run(digest(2))
    assert (await one(web, again["deploymentId"]))["reason"]["code"] == "gate_expired"  # it has waited for long enough


# -- people


async def test_people_are_told_once_that_a_deployment_waits_for_one_of_them(
    web: Web, told: Told, attempts: Attempts
) -> None:
    await web.mutate("gate.create", applicationId="web", kind="person")
    told.answers["it"] = unknown(Code.AWAITS_APPROVAL, "nobody has approved")
    await deploy(web)
    for number in (1, 1, 2, 2):
        await attempts.run(digest(number))
        await due(web)
    assert [alert.title for alert in attempts.alerts] == ["web: a deployment waits at the gate person"] * 2
    assert "approve it here" in attempts.alerts[0].body


async def test_an_override_lets_one_deployment_pass_with_one_image(web: Web, told: Told, attempts: Attempts) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    told.answers["it"] = WAITS
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    passes = await web.mutate("gate.override", deploymentId=deployment_id, name="told", reason="it burns")
    assert passes == {"deploymentId": deployment_id}
    assert await attempts.run(digest(2)) is None  # the tag names another image now
    await due(web)
    assert await attempts.run(digest(1)) is not None
    (answer,) = (await one(web, deployment_id))["gates"]
    assert (answer["verdict"], answer["message"]) == ("passed", "tests let it pass: it burns")
    assert answer["overriddenBy"] == "tests"
    await deploy(web, "application.redeploy")
    assert await attempts.run(digest(1)) is None
    (written,) = (await web.query("audit.list", action="gate.override", applicationId="web"))["items"]
    assert (written["target"], written["after"]["reason"], written["who"]) == (deployment_id, "it burns", "tests")


async def test_an_override_ends_with_the_configuration_that_it_was_for(
    web: Web, told: Told, attempts: Attempts
) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    told.answers["it"] = WAITS
    deployment_id = await deploy(web)
    await attempts.run(digest(1))
    await web.mutate("gate.override", deploymentId=deployment_id, name="told", reason="it burns")
    for _ in range(2):
        assert await attempts.run(digest(1), spec_hash="changed") is None
        await due(web)
    await web.mutate("gate.override", deploymentId=deployment_id, name="told", reason="it still burns")
    assert await attempts.run(digest(1), spec_hash="changed") is not None


async def test_an_override_of_what_a_gate_has_ended_lets_a_new_one_pass(
    web: Web, told: Told, attempts: Attempts
) -> None:
    await web.mutate("gate.create", applicationId="web", kind="told")
    told.answers["it"] = REFUSES
    ended = await deploy(web)
    await attempts.run(digest(1))
    again = (await web.mutate("gate.override", deploymentId=ended, name="told", reason="it burns"))["deploymentId"]
    assert again != ended
    assert await attempts.run(digest(1)) is not None
    assert [(await one(web, each))["state"] for each in (ended, again)] == ["failed", "succeeded"]
    for named, reason, status in (("told", "late", 409), ("nope", "x", 404), ("told", " ", 400)):
        given = {"deploymentId": again, "name": named, "reason": reason}
        assert (await web.post("/api/gate.override", given))[0] == status


# -- whatever happens


class History:
    """One application, three images, two gates: what may happen, in any order."""

    def __init__(self, web: Web, told: Told, attempts: Attempts, random: Random) -> None:
        self.web, self.told, self.attempts, self.random = web, told, attempts, random
        self.tag = digest(1)
        #: what each gate answers about each image
        self.answers: dict[tuple[str, str], Decision] = {}
        #: image and gate of each verdict that was given and holds, or of an override
        self.let_pass: set[tuple[str, str]] = set()
        self.deployed: list[str] = []

    async def choose(self, setting: GateSetting, candidate: Candidate) -> Decision:
        if self.random.random() < 0.2:  # the tag moves, the deployment is pushed, or cancelled, while it asks
            await self.random.choice([self.push, self.change, self.cancel, self.override])()
        answer = self.answers.get((setting.name, candidate.digest), WAITS)
        if answer.verdict is Verdict.PASSED:
            self.let_pass.add((setting.name, candidate.digest))
        return answer

    async def push(self) -> None:
        self.tag = digest(self.random.randrange(3))
        procedure = self.random.choice(["application.deploy", "application.redeploy"])
        await self.web.post(f"/api/{procedure}", {"applicationId": "web"})

    async def change(self) -> None:
        key = (self.random.choice(["a", "b"]), digest(self.random.randrange(3)))
        self.answers[key] = self.random.choice([PASSES, PASSES, PASSES, REFUSES, WAITS])
        async with self.web.pool.acquire() as connection:
            ids = await connection.fetch("SELECT deployment_id FROM deployments WHERE status IN ('queued', 'running')")
            await gate_verdicts.wake(connection, [row["deployment_id"] for row in ids])

    async def cancel(self) -> None:
        await cancel.cancel_deployments(self.web.pool, "web", running=False)

    async def override(self) -> None:
        rows = await self.web.pool.fetch(
            "SELECT v.deployment_id, v.name, v.digest FROM gate_verdicts v JOIN deployments d USING (deployment_id)"
            " WHERE v.verdict <> 'passed' AND d.status IN ('queued', 'running', 'failed') ORDER BY d.created_at, v.name"
        )
        if not rows:
            return
        row = self.random.choice(rows)
        given = {"deploymentId": row["deployment_id"], "name": row["name"], "reason": "so it shall be"}
        status, _ = await self.web.post("/api/gate.override", given)
        if status == 200:
            self.let_pass.add((row["name"], row["digest"]))

    async def attempt(self) -> None:
        await due(self.web)
        resolved = self.tag
        killed = self.random.random() < 0.3
        claimed = await self.attempts.claim(lease=0.0 if killed else 60.0, owner=str(self.random.random()))
        if claimed is None:
            return
        if killed:  # after it has asked, before anything else
            with suppress(AtGate, Failed, LeaseLost):
                await self.attempts.ask(claimed, resolved)
            return
        try:
            done = await self.attempts.run(resolved, claimed=claimed)
        except LeaseLost:
            return
        if done is not None:
            self.deployed.append(resolved)
            assert {("a", resolved), ("b", resolved)} <= self.let_pass


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))])
async def test_nothing_is_deployed_that_a_gate_or_a_person_has_not_let_pass(
    web: Web, told: Told, attempts: Attempts, seed: int
) -> None:
    history = History(web, told, attempts, Random(seed))
    told.choose = history.choose
    attempts.gates = {"told": told.gate()}
    for name in ("a", "b"):
        await web.mutate("gate.create", applicationId="web", kind="told", name=name)
    for _ in range(80):
        step = history.random.choices(
            [history.push, history.change, history.cancel, history.override, history.attempt], [3, 5, 1, 1, 8]
        )[0]
        await step()
    # Nothing is stuck: what all let pass is deployed in the end.
    history.answers = {(name, digest(number)): PASSES for name in ("a", "b") for number in range(3)}
    await history.push()
    before = len(history.deployed)
    for _ in range(30):
        await history.attempt()
    assert len(history.deployed) > before
