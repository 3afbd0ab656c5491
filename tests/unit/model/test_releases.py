"""A release ends with all members new, or with all members old, whatever happens to it in any order."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.deployments import Kind
from gateway.model.errors import Code, Reason
from gateway.model.releases import (
    ENDED,
    FRESH,
    LONGEST_MOVE,
    NEW,
    Member,
    MemberState,
    Plan,
    Progress,
    ReleaseState,
    plan,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXITED = Reason(Code.EXITED, "exit code 3")
PREPARED, MOVED, OLD = MemberState.PREPARED, MemberState.MOVED, MemberState.OLD
AT_REST = {MemberState.OLD, MemberState.BACK, MemberState.UNCHANGED, MemberState.PREPARED}


def member(name: str, state: MemberState, wave: int = 1, **more: object) -> Member:
    return replace(Member(name, name, wave, state, prepared_at=NOW), **more)  # type: ignore[arg-type]


def progress(*members: Member, state: ReleaseState = ReleaseState.PREPARING, **more: object) -> Progress:
    return replace(Progress(state, None, None, abandoned=False, members=members), **more)  # type: ignore[arg-type]


def test_no_member_moves_before_all_are_prepared() -> None:
    waits = plan(progress(member("a", PREPARED), member("b", MemberState.PREPARING)), NOW)
    assert waits == Plan(ReleaseState.PREPARING)
    goes = plan(progress(member("a", PREPARED), member("b", PREPARED, 2), member("c", MemberState.UNCHANGED)), NOW)
    assert goes == Plan(ReleaseState.MOVING, move=("a",))


def test_what_was_prepared_long_ago_is_prepared_again_before_any_member_moves() -> None:
    late = NOW + FRESH + timedelta(seconds=1)
    again = plan(progress(member("a", PREPARED), member("b", PREPARED, prepared_at=late)), late)
    assert again == Plan(ReleaseState.PREPARING, prepare_again=("a",))


@pytest.mark.parametrize(
    ("successor", "expected"),
    [
        (Kind.DEPLOY, Plan(ReleaseState.PREPARING, replace=("a",))),
        (
            Kind.STOP,
            Plan(ReleaseState.PUT_BACK, Reason(Code.CANCELLED, "a stop of a was requested"), cancel=("a", "b")),
        ),
    ],
)
def test_a_later_request_counts_until_the_release_moves(successor: Kind, expected: Plan) -> None:
    members = (member("a", PREPARED, successor=successor), member("b", PREPARED))
    assert plan(progress(*members), NOW) == expected
    moving = plan(progress(*members, state=ReleaseState.MOVING), NOW)
    assert moving == Plan(ReleaseState.MOVING, move=("a", "b"))


def test_trouble_in_a_monitor_window_puts_the_last_wave_back_first() -> None:
    members = (member("a", MOVED, watched=True, trouble=EXITED), member("b", MOVED, 2))
    found = plan(progress(*members, state=ReleaseState.PROVING), NOW)
    assert (found.state, found.put_back) == (ReleaseState.PUTTING_BACK, ("b",))
    assert found.reason == Reason(Code.EXITED, "a had trouble after its rollout: exit code 3")


def test_only_a_person_ends_a_release_that_cannot_be_put_back() -> None:
    stuck = progress(
        member("a", MOVED),
        member("b", MemberState.NOT_BACK, 2, failures=9, failed_at=NOW),
        state=ReleaseState.PUTTING_BACK,
    )
    assert plan(stuck, NOW) == Plan(ReleaseState.PUTTING_BACK)
    assert plan(stuck, NOW + timedelta(minutes=1)).put_back == ("b",)
    assert plan(replace(stuck, abandoned=True), NOW).state is ReleaseState.FAILED


def test_a_member_whose_engine_is_away_holds_up_neither_the_end_nor_the_others() -> None:
    late = NOW + LONGEST_MOVE + timedelta(seconds=1)
    waits = member("b", MemberState.MOVING, 2, idle=True, moving_since=NOW)
    moving = progress(member("a", MOVED), waits, state=ReleaseState.MOVING)
    assert plan(moving, NOW).state is ReleaseState.MOVING
    found = plan(moving, late)
    assert (found.state, found.cancel, found.reason and found.reason.code) == (
        ReleaseState.PUTTING_BACK,
        ("b",),
        Code.RELEASE_FAILED,
    )
    cancelled = replace(waits, cancelling=True)
    back = progress(member("a", MOVED), cancelled, state=ReleaseState.PUTTING_BACK)
    assert plan(back, late).put_back == ("a",)
    busy = progress(member("a", MOVED), replace(cancelled, idle=False), state=ReleaseState.PUTTING_BACK)
    assert plan(busy, late).put_back == ()


@dataclass
class History:
    """A release whose members do at random what members can do."""

    chance: random.Random
    members: dict[str, Member]
    state: ReleaseState = ReleaseState.PREPARING
    reason: Reason | None = None
    cancelled: bool = False
    now: datetime = NOW
    #: what really serves
    new: dict[str, bool] = field(default_factory=dict)

    def step(self) -> None:
        """Look at the release, and do what is planned."""
        before = dict(self.members)
        found = plan(
            Progress(self.state, self.reason, "a" if self.cancelled else None, False, list(before.values())), self.now
        )
        self.check(found, before)
        self.state, self.reason = found.state, found.reason
        for name in found.move:
            self.put(name, state=MemberState.MOVING)
        for name in (*found.prepare_again, *found.replace):
            self.put(name, state=MemberState.PREPARING, successor=None)
        for name in found.cancel:
            self.put(name, cancelling=True)
        for name in found.put_back:
            self.put(name, state=MemberState.GOING_BACK)

    def check(self, found: Plan, before: dict[str, Member]) -> None:
        waves = {name: one.wave for name, one in before.items()}
        for name in found.move:
            assert before[name].state is PREPARED
            assert self.state is ReleaseState.MOVING or all(one.state in NEW | {PREPARED} for one in before.values()), (
                "one moves before all are prepared"
            )
            assert all(one.state in NEW for one in before.values() if one.wave < waves[name]), "a wave is overtaken"
        for name in found.put_back:
            assert all(one.state in AT_REST for one in before.values() if one.wave > waves[name]), "in the wrong order"

    def put(self, name: str, **changes: object) -> None:
        self.members[name] = replace(self.members[name], **changes)  # type: ignore[arg-type]

    def event(self) -> None:
        """Let something happen to a member, a person, or the clock."""
        self.now += timedelta(seconds=self.chance.choice((0, 1, 90, 700)))
        name = self.chance.choice(list(self.members))
        one = self.members[name]
        if self.chance.random() < 0.05:
            self.put(name, successor=self.chance.choice([Kind.DEPLOY, Kind.REDEPLOY, Kind.STOP, Kind.ROLLBACK]))
        if self.chance.random() < 0.01:
            self.cancelled = True
        if one.state in {MemberState.PREPARING, PREPARED} and one.cancelling:
            self.put(name, state=OLD, reason=Reason(Code.RELEASE_FAILED, "x"))
        elif one.state is MemberState.PREPARING:
            became = self.chance.choices([PREPARED, MemberState.UNCHANGED, OLD], [8, 1, 0.3])[0]
            self.put(name, state=became, reason=EXITED, prepared_at=self.now)
        elif one.state is MemberState.MOVING:
            became = self.chance.choices([MOVED, OLD, MemberState.UNKNOWN, MemberState.UNCHANGED], [8, 1, 0.5, 0.2])[0]
            self.new[name] = became is MOVED or (became is MemberState.UNKNOWN and self.chance.random() < 0.5)
            self.put(name, state=became, reason=EXITED, watched=became is MOVED)
        elif one.state is MOVED and one.watched:
            trouble = EXITED if self.chance.random() < 0.1 else None
            self.put(name, watched=False, trouble=trouble)
        elif one.state is MemberState.GOING_BACK:
            back = self.chance.random() < 0.6
            self.new[name] = self.new.get(name, False) and not back
            self.put(
                name,
                state=MemberState.BACK if back else MemberState.NOT_BACK,
                failures=one.failures + 1,
                failed_at=self.now,
            )


@pytest.mark.parametrize("seed", range(20))
def test_a_release_ends_all_new_or_all_old_in_every_history(seed: int) -> None:
    ends = set()
    for number in range(50):
        chance = random.Random(1000 * seed + number)
        names = "abcdefghij"[: chance.randint(1, 10)]
        one = History(chance, {name: member(name, MemberState.PREPARING, chance.randint(1, 3)) for name in names})
        for _ in range(5000):
            if one.state in ENDED:
                break
            # Several gateways look at it, or none for a while.
            (one.step if chance.random() < 0.4 else one.event)()
        ends.add(one.state)
        moved = {name for name, new in one.new.items() if new}
        unchanged = {name for name, each in one.members.items() if each.state is MemberState.UNCHANGED}
        if one.state is ReleaseState.SUCCEEDED:
            assert moved | unchanged == set(names)
        else:
            assert (one.state, moved) == (ReleaseState.PUT_BACK, set())
    assert ends == {ReleaseState.SUCCEEDED, ReleaseState.PUT_BACK}
