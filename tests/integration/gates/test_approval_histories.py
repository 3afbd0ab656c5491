"""Whatever happens in whatever order, nothing goes out but what enough different others have approved."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from gateway.admin import approvals as people
from gateway.admin.approvals import Given
from gateway.model.api_keys import Permission
from gateway.model.approvals import AnswerKind, Approver
from gateway.model.errors import GatewayError
from gateway.model.gates import Candidate, Verdict
from tests.support.api_client import Web
from tests.support.approving import Asking, a_key, digest

NEEDED = 2
NAMES = ("ann", "bob", "cem", "dee", "eve", "fay")
TWO_KEYS = ("ann", "bob")  # each of them counts once all the same
STEPS = 60


@dataclass
class Said:
    """What somebody answered last, about this digest and this configuration."""

    who: str
    kind: AnswerKind
    digest: str
    spec_hash: str


@dataclass
class History:
    """An application, people with keys, and what was said since anything else was asked."""

    web: Web
    asking: Asking
    chance: random.Random
    people: list[Approver]
    said: list[Said] = field(default_factory=list)
    askers: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    passed: int = 0
    told: list[str] = field(default_factory=list)

    # -- what happens

    async def push(self) -> None:
        self.asking.digest = digest(self.chance.choice("ab"))
        await self.web.push("acme/web:v1")

    async def configure(self) -> None:
        self.asking.spec_hash = self.chance.choice(("s1", "s2"))
        if self.chance.random() < 0.5:  # else the answer comes before anybody noticed
            env = f"LEVEL={self.asking.spec_hash}"
            await self.web.mutate("application.update", applicationId="app", env=env)

    async def redeploy(self) -> None:
        asker = self.chance.choice(self.people)
        await self.web.push("acme/web:v1")
        await self.web.pool.execute(
            "UPDATE deployments SET asked_key = $1, asked_by = $2, forced = true WHERE status = 'queued'",
            asker.identity.removeprefix("key:"),
            asker.name,
        )
        self.askers.add(asker.identity)

    async def revoke(self) -> None:
        one = self.chance.choice(self.people)
        if len(self.revoked) < len(self.people) - NEEDED - 1:
            self.revoked.add(one.identity)
            await self.web.pool.execute(
                "UPDATE api_keys SET revoked_at = now() WHERE key_id = $1", one.identity.removeprefix("key:")
            )

    async def expire(self) -> None:
        await self.web.pool.execute("UPDATE approvals SET deadline_at = now() WHERE closed_at IS NULL")

    async def answer(self) -> None:
        ids = await self.web.pool.fetch("SELECT approval_id FROM approvals ORDER BY random() LIMIT 1")
        choices = [*ids, *await self.web.pool.fetch("SELECT approval_id FROM approvals WHERE closed_at IS NULL")]
        if not choices:
            return
        kind = self.chance.choices(list(AnswerKind), (12, 1, 1))[0]
        until = datetime.now(UTC) + timedelta(milliseconds=30) if kind is AnswerKind.DEFER else None
        approver = self.chance.choice([one for one in self.people if one.identity not in self.revoked])
        try:
            row = await people.answer(
                self.web.pool, choices[-1]["approval_id"], approver, Given(kind, "because", until)
            )
        except GatewayError as error:
            self.told.append(type(error).__name__)
            return
        self.said = [one for one in self.said if one.who != approver.identity]
        self.said.append(Said(approver.identity, kind, row.digest, row.spec_hash))

    async def ask(self) -> None:
        """Let an attempt ask: alone, while people answer, after a gateway died, or while a newer push comes."""
        candidate = await self.asking.claim()
        if candidate.deployment.status != "running":
            return
        if self.chance.random() < 0.2:  # its gateway died after it had asked
            await self.asking.decide(candidate)
            await self.web.pool.execute("UPDATE deployments SET epoch = epoch + 1 WHERE status = 'running'")
            candidate = await self.asking.candidate()
        # What was approved for something else does not count any more, also if that comes back.
        self.said = [one for one in self.said if self._is_about(one, candidate)]
        meanwhile = [self.answer() for _ in range(self.chance.choice((0, 0, 1, 3)))]
        answering = asyncio.gather(*meanwhile)
        decision = await self.asking.decide(candidate)
        await answering
        if decision.verdict is Verdict.PASSED:
            self._check(candidate)
        await self._end(candidate, decision.verdict)

    async def _end(self, candidate: Candidate, verdict: Verdict) -> None:
        status = {Verdict.PASSED: "succeeded", Verdict.REFUSED: "failed"}.get(verdict, "queued")
        if status == "queued" and self.chance.random() < 0.2:
            status = "superseded"
        await self.web.pool.execute(
            "UPDATE deployments SET status = $2::status, lease_until = NULL,"
            " finished_at = CASE WHEN $2 <> 'queued' THEN now() END WHERE deployment_id = $1",
            candidate.deployment.deployment_id,
            status,
        )
        if status in {"succeeded", "failed"}:
            self.said, self.askers = [], set()

    # -- what must hold

    @staticmethod
    def _is_about(one: Said, candidate: Candidate) -> bool:
        return (one.digest, one.spec_hash) == (candidate.digest, candidate.spec_hash)

    def _check(self, candidate: Candidate) -> None:
        about = [one for one in self.said if self._is_about(one, candidate)]
        others = {one.who for one in about if one.kind is AnswerKind.APPROVE} - self.revoked
        names = {one.name for one in self.people if one.identity in others - self.askers}
        assert len(names) >= NEEDED, (self.said, self.askers, self.revoked, candidate.digest)
        assert AnswerKind.REJECT not in {one.kind for one in about}
        self.passed += 1


async def _live(web: Web, seed: str, steps: int = STEPS) -> History:
    """Live through a random history, and return it."""
    chance = random.Random(seed)
    async with web.pool.acquire() as connection:
        await connection.execute("DELETE FROM applications")
    await web.mutate("application.create", name="Shop", applicationId="app", dockerImage="acme/web:v1")
    keys = [(name, (await a_key(web.pool, name, Permission.DEPLOY))[1]) for name in (*NAMES, *TWO_KEYS)]
    everybody = [Approver.of_key(key_id, name, Permission.DEPLOY) for name, key_id in keys]
    asking = Asking(web.pool, {"count": NEEDED, "approvers": list(NAMES)})
    history = History(web, asking, chance, everybody)
    acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
        (history.push, 3),
        (history.configure, 1),
        (history.redeploy, 1),
        (history.revoke, 1),
        (history.expire, 1),
        (history.answer, 12),
        (history.ask, 6),
    ]
    for _ in range(steps):
        act = chance.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
        if act == history.ask and not await web.pool.fetchval("SELECT true FROM deployments WHERE status = 'queued'"):
            act = history.push
        await act()
    return history


async def test_nothing_goes_out_but_what_enough_others_approved(web: Web) -> None:
    lived = [await _live(web, f"history {number}") for number in range(2)]
    assert sum(one.passed for one in lived) >= 1  # it is no gate that nothing passes


@pytest.mark.long
@pytest.mark.timeout(1800)  # thousands of calls, one after the other: on a busy machine many minutes
@pytest.mark.parametrize("part", range(4))
async def test_nothing_goes_out_but_what_enough_others_approved_in_many_histories(web: Web, part: int) -> None:
    lived = [await _live(web, f"long history {part} {number}", 75) for number in range(20)]
    assert sum(one.passed for one in lived) >= 20
    assert {"Conflict", "Forbidden"} <= {told for one in lived for told in one.told}
