"""People approve a digest with a configuration, and nothing else goes out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.admin import approvals as admin
from gateway.admin.approvals import Given
from gateway.model.api_keys import Permission
from gateway.model.approvals import AnswerKind, Approver
from gateway.model.errors import Code, Forbidden
from gateway.model.gates import Verdict
from gateway.store import api_keys, approvals, gateway_address
from tests.support.api_client import Web
from tests.support.approving import Asking, a_key, digest

TWO = {"count": 2, "approvers": ["ann", "bob", "cem", "deployer"], "deadline": "3d"}


class Person:
    """Somebody with a key."""

    def __init__(self, web: Web, key: str, key_id: str) -> None:
        self._web, self.key, self.key_id = web, key, key_id

    async def call(self, procedure: str, **given: object) -> tuple[int, Any]:
        status, answer = await self._web.post(f"/api/{procedure}", given, **{"x-api-key": self.key})
        return status, answer

    async def approve(self, approval_id: str, **given: object) -> tuple[int, Any]:
        return await self.call("approval.approve", approvalId=approval_id, **given)


@pytest.fixture
async def asking(web: Web) -> Asking:
    await web.mutate("application.create", name="Shop", applicationId="app", dockerImage="acme/web:v1")
    await web.push("acme/web:v1")
    return Asking(web.pool, TWO)


async def person(web: Web, name: str, permission: Permission = Permission.DEPLOY) -> Person:
    return Person(web, *await a_key(web.pool, name, permission))


async def is_due(web: Web) -> bool:
    return bool(await web.pool.fetchval("SELECT bool_or(next_attempt_at <= now()) FROM deployments"))


async def test_it_passes_once_enough_different_people_have_approved(web: Web, asking: Asking) -> None:
    waits = await asking.ask()
    assert (waits.verdict, waits.code) == (Verdict.UNKNOWN, Code.AWAITS_APPROVAL)
    ann, bob = await person(web, "ann"), await person(web, "bob")
    approval_id = await asking.open_id()
    for _ in range(2):  # twice is once
        status, row = await ann.approve(approval_id)
        assert (status, row["standing"], row["approvals"]) == (200, "waiting", 1)
    assert await is_due(web)  # it is woken
    assert (await asking.ask()).verdict is Verdict.UNKNOWN
    assert not await is_due(web)
    status, row = await bob.approve(approval_id, digest=digest("a"))
    assert (status, row["standing"], row["approvals"]) == (200, "approved", 2)
    passes = await asking.ask()
    assert (passes.verdict, passes.message) == (Verdict.PASSED, "approved by ann, bob")


async def test_two_who_approve_at_once_are_both_counted(web: Web, asking: Asking) -> None:
    await asking.ask()
    approval_id = await asking.open_id()
    several = [await person(web, name) for name in ("ann", "bob", "cem")]
    answers = await asyncio.gather(*(one.approve(approval_id) for one in several))
    assert [status for status, _ in answers] == [200, 200, 200]
    assert (await asking.ask()).verdict is Verdict.PASSED


async def test_who_asked_cannot_approve_unless_the_rule_says_so(web: Web, asking: Asking) -> None:
    deployer, ann = await person(web, "deployer"), await person(web, "ann")
    assert (await deployer.call("application.redeploy", applicationId="app"))[0] == 200
    await asking.ask()
    approval_id = await asking.open_id()
    status, refused = await deployer.approve(approval_id)
    assert (status, "another one must approve it" in refused["message"]) == (403, True)
    assert (await ann.approve(approval_id))[0] == 200
    asking.rule = {**TWO, "askerMayApprove": True}
    await asking.ask()
    assert (await deployer.approve(approval_id))[0] == 200
    assert (await asking.ask()).verdict is Verdict.PASSED


async def test_the_key_of_gateway_open_stands_for_who_ran_that(web: Web, asking: Asking) -> None:
    asking.rule = {"count": 2}
    ann, bob = await person(web, "ann", Permission.ADMIN), await person(web, "bob", Permission.ADMIN)
    async with web.pool.acquire() as connection:
        await gateway_address.update_serving(connection, public_url=None, listens="http://127.0.0.1:1")

    async def opens(one: Person) -> Approver:
        status, made = await one.call("key.signIn", scope="admin")
        assert status == 200, made
        return Approver.of_key(made["keyId"], "", Permission.ADMIN)

    assert (await ann.call("application.redeploy", applicationId="app"))[0] == 200
    await asking.ask()
    approval_id, approves = await asking.open_id(), Given(AnswerKind.APPROVE)
    with pytest.raises(Forbidden, match="ann asked for this deployment"):
        await admin.answer(web.pool, approval_id, await opens(ann), approves)
    assert (await bob.approve(approval_id))[1]["approvals"] == 1
    again = await admin.answer(web.pool, approval_id, await opens(bob), approves)
    assert [one.approver.name for one in again.answers] == ["bob"]
    assert (await asking.ask()).verdict is Verdict.UNKNOWN
    root = Approver.of_command_line("root (sudo by cem)")
    await web.pool.execute(
        "UPDATE api_keys SET held_by = $2 WHERE 'key:' || key_id = $1", (await opens(bob)).identity, root.identity
    )
    held = await web.pool.fetchval("SELECT key_id FROM api_keys WHERE held_by = $1", root.identity)
    third = await admin.answer(web.pool, approval_id, Approver.of_key(held, "", Permission.ADMIN), approves)
    assert [one.approver.identity for one in third.answers] == [f"key:{bob.key_id}", "cli:cem"]
    assert (await asking.ask()).verdict is Verdict.PASSED


async def test_who_asks_on_the_dashboard_that_they_opened_cannot_approve_with_their_key(
    web: Web, asking: Asking
) -> None:
    ann = await person(web, "ann")
    async with web.pool.acquire() as connection:
        key, _ = await api_keys.insert_key(connection, "ann (gateway open)", held_by=f"key:{ann.key_id}")
    assert (await Person(web, key, "").call("application.redeploy", applicationId="app"))[0] == 200
    await asking.ask()
    assert (await ann.approve(await asking.open_id()))[0] == 403


async def test_an_approver_who_then_asks_for_the_deployment_counts_no_more(web: Web, asking: Asking) -> None:
    await asking.ask()
    ann, bob = await person(web, "ann"), await person(web, "bob")
    approval_id = await asking.open_id()
    await ann.approve(approval_id)
    await ann.call("application.redeploy", applicationId="app")  # joins
    await bob.approve(approval_id)
    assert (await asking.ask()).verdict is Verdict.UNKNOWN


async def test_a_rejection_is_final_and_needs_a_reason(web: Web, asking: Asking) -> None:
    await asking.ask()
    ann, bob = await person(web, "ann"), await person(web, "bob")
    approval_id = await asking.open_id()
    assert (await ann.call("approval.reject", approvalId=approval_id, reason=" "))[0] == 400
    assert (await ann.call("approval.reject", approvalId=approval_id, reason="it leaks"))[0] == 200
    status, conflict = await bob.approve(approval_id)
    assert (status, "ann rejected it: it leaks" in conflict["message"]) == (409, True)
    refused = await asking.ask()
    assert (refused.verdict, refused.code) == (Verdict.REFUSED, Code.APPROVAL_REJECTED)
    status, conflict = await bob.approve(approval_id)
    assert (status, "has ended: failed" in conflict["message"]) == (409, True)


async def test_a_deferral_holds_it_until_its_time_and_is_no_approval(web: Web, asking: Asking) -> None:
    await asking.ask()
    ann, bob, cem = [await person(web, name) for name in ("ann", "bob", "cem")]
    approval_id = await asking.open_id()
    until = datetime.now(UTC) + timedelta(hours=2)
    for wrong in (until - timedelta(days=1), until + timedelta(days=9)):
        status, _ = await ann.call("approval.defer", approvalId=approval_id, until=wrong.isoformat())
        assert status == 400
    assert (await ann.call("approval.defer", approvalId=approval_id, until=until.isoformat()))[0] == 200
    await bob.approve(approval_id)
    assert (await cem.approve(approval_id))[1]["standing"] == "waiting"
    waits = await asking.ask()
    assert (waits.verdict, waits.ask_again_at) == (Verdict.UNKNOWN, until)
    await web.pool.execute("UPDATE approval_answers SET until = now() - interval '1 second' WHERE answer = 'defer'")
    assert (await asking.ask()).verdict is Verdict.PASSED


async def test_another_digest_is_asked_anew_and_the_conflict_names_both(web: Web, asking: Asking) -> None:
    await asking.ask()
    ann, bob = await person(web, "ann"), await person(web, "bob")
    first = await asking.open_id()
    await ann.approve(first)
    asking.digest = digest("b")  # the tag has moved
    await asking.ask()
    status, conflict = await bob.approve(first)
    assert (status, digest("a") in conflict["message"], digest("b") in conflict["message"]) == (409, True, True)
    second = await asking.open_id()
    assert (await bob.approve(second))[1]["approvals"] == 1
    assert (await ann.approve(second, digest=digest("a")))[0] == 409
    asking.digest = digest("a")  # and back: what was approved before does not count
    assert "0 of 2" in (await asking.ask()).message


async def test_another_configuration_is_asked_anew_before_and_after_the_deployment_noticed(
    web: Web, asking: Asking
) -> None:
    await asking.ask()
    ann, bob = await person(web, "ann"), await person(web, "bob")
    first = await asking.open_id()
    await ann.approve(first)
    await asking.ask()
    await web.mutate("application.update", applicationId="app", env="LEVEL=debug")
    status, conflict = await bob.approve(first)
    assert (status, "configuration has changed" in conflict["message"]) == (409, True)
    assert await is_due(web)  # so that it asks about the new one
    asking.spec_hash = "s2"
    await asking.ask()
    status, conflict = await bob.approve(first)
    assert (status, digest("a") in conflict["message"]) == (409, True)
    row = (await web.query("approval.all"))[0]
    assert (row["approvalId"], row["approvals"]) == (await asking.open_id(), 0)
    assert {"field": "env", "runs": None, "wanted": "LEVEL added"} in row["changes"]


async def test_a_newer_push_of_the_same_keeps_the_approvals_and_of_another_does_not(web: Web, asking: Asking) -> None:
    await asking.ask()
    ann, bob = await person(web, "ann"), await person(web, "bob")
    first = await asking.open_id()
    await ann.approve(first)
    await asking.claim()
    await web.push("acme/web:v1")  # queued beside the one that runs
    await web.pool.execute(
        "UPDATE deployments SET status = 'superseded', finished_at = now(), lease_until = NULL WHERE status = 'running'"
    )
    status, conflict = await bob.approve(first)
    assert (status, "has ended: superseded" in conflict["message"]) == (409, True)
    await asking.ask()
    assert await asking.open_id() == first
    assert (await bob.approve(first))[1]["standing"] == "approved"
    assert (await asking.ask()).verdict is Verdict.PASSED
    await web.push("acme/web:v1")
    assert "0 of 2" in (await asking.ask()).message  # it had ended


async def test_after_the_deadline_it_fails_and_takes_no_answer(web: Web, asking: Asking) -> None:
    await asking.ask()
    ann = await person(web, "ann")
    approval_id = await asking.open_id()
    await ann.approve(approval_id)
    await web.pool.execute("UPDATE approvals SET deadline_at = now() - interval '1 second'")
    status, conflict = await ann.approve(approval_id)
    assert (status, "deadline has passed" in conflict["message"]) == (409, True)
    expired = await asking.ask()
    assert (expired.verdict, expired.code) == (Verdict.REFUSED, Code.GATE_EXPIRED)


async def test_what_was_approved_in_time_passes_after_the_deadline(web: Web, asking: Asking) -> None:
    await asking.ask()
    approval_id = await asking.open_id()
    for name in ("ann", "bob"):
        await (await person(web, name)).approve(approval_id)
    await web.pool.execute("UPDATE approvals SET deadline_at = clock_timestamp()")  # as when the registry was away
    assert (await asking.ask()).verdict is Verdict.PASSED


async def test_the_approval_of_a_key_that_was_revoked_since_does_not_count(web: Web, asking: Asking) -> None:
    await asking.ask()
    approval_id = await asking.open_id()
    ann, bob = await person(web, "ann"), await person(web, "bob")
    await ann.approve(approval_id)
    await bob.approve(approval_id)
    await web.pool.execute("UPDATE api_keys SET revoked_at = now() WHERE key_id = $1", bob.key_id)
    assert "1 of 2" in (await asking.ask()).message


async def test_only_those_with_the_right_answer(web: Web, asking: Asking) -> None:
    await asking.ask()
    approval_id = await asking.open_id()
    reader = await person(web, "ann", Permission.READ)
    stranger = await person(web, "eve", Permission.ADMIN)
    elsewhere = Person(web, *await a_key(web.pool, "ann", only=frozenset()))
    for one in (reader, stranger, elsewhere):
        status, _ = await one.approve(approval_id)
        assert status == 403
        assert (await one.call("approval.reject", approvalId=approval_id, reason="no"))[0] == 403
    asking.rule = {"count": 1}
    await asking.ask()
    assert (await (await person(web, "deployer")).approve(approval_id))[0] == 403  # scope deploy asks
    assert (await stranger.approve(approval_id))[0] == 200
    recorded = await web.query("audit.list", outcome="done", applicationId="app", action="approval.approve")
    assert [(one["who"], one["after"]["answer"]) for one in recorded["items"] if one["target"] == approval_id] == [
        ("eve", "approve")
    ]


async def test_a_restricted_key_sees_and_answers_only_for_its_applications(web: Web, asking: Asking) -> None:
    await asking.ask()
    own = await a_key(web.pool, "ann", only=frozenset({"app"}))
    other = await a_key(web.pool, "bob", only=frozenset())
    for (key, _), expected in ((own, 1), (other, 0)):
        async with web.client.get("/api/approval.all", headers={"x-api-key": key}) as answered:
            rows = await answered.json()
        assert len(rows) == expected
    assert (await Person(web, *own).approve(await asking.open_id()))[0] == 200


async def test_it_cannot_be_rejected_while_it_goes_out(web: Web, asking: Asking) -> None:
    asking.rule = {"count": 1}
    await asking.ask()
    approval_id = await asking.open_id()
    eve = await person(web, "eve", Permission.ADMIN)
    await eve.approve(approval_id)
    candidate = await asking.claim()
    assert (await asking.decide(candidate)).verdict is Verdict.PASSED
    status, conflict = await eve.call("approval.reject", approvalId=approval_id, reason="wait")
    assert (status, "gateway deployments cancel" in conflict["message"]) == (409, True)
    # It waits at another gate: then it can be.
    await web.pool.execute("UPDATE deployments SET status = 'queued', lease_until = NULL")
    assert (await eve.call("approval.reject", approvalId=approval_id, reason="wait"))[0] == 200
    assert (await asking.ask()).code is Code.APPROVAL_REJECTED


async def test_nothing_is_asked_where_the_gate_is_only_checked_or_the_attempt_is_stale(
    web: Web, asking: Asking
) -> None:
    waits = await asking.decide(await asking.candidate())  # queued: nothing runs
    assert (waits.verdict, await web.count("approvals")) == (Verdict.UNKNOWN, 0)
    stale = await asking.claim()
    await web.pool.execute("UPDATE deployments SET epoch = epoch + 1")
    await asking.decide(stale)
    assert await web.count("approvals") == 0


async def test_what_was_asked_long_ago_is_forgotten(web: Web, asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "_MAX_CLOSED", 2)
    for number in range(6):
        asking.spec_hash = f"s{number}"
        await asking.ask()
    assert await web.count("approvals") == 3


async def test_all_who_asked_before_anybody_was_asked_are_askers(web: Web, asking: Asking) -> None:
    ann, bob, cem = [await person(web, name) for name in ("ann", "bob", "cem")]
    await ann.call("application.redeploy", applicationId="app")  # joins the push
    await bob.call("application.redeploy", applicationId="app")  # and that
    await asking.ask()
    approval_id = await asking.open_id()
    assert [(await one.approve(approval_id))[0] for one in (ann, bob, cem)] == [403, 403, 200]


async def test_a_name_that_people_chose_at_an_identity_provider_makes_nobody_an_approver(
    web: Web, asking: Asking
) -> None:
    await asking.ask()
    chosen = await person(web, "ann", Permission.ADMIN)
    await web.pool.execute(
        "INSERT INTO oidc_people (issuer, subject, key_id) VALUES ('https://sso', 's1', $1)", chosen.key_id
    )
    assert (await chosen.approve(await asking.open_id()))[0] == 403
    asking.rule = {"count": 1, "approvers": [chosen.key_id]}
    await asking.ask()
    assert (await chosen.approve(await asking.open_id()))[0] == 200
    assert (await asking.ask()).verdict is Verdict.PASSED
