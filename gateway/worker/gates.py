"""Ask the gates of a deployment between resolve and pull, and record what they answer.

    all passed       the rollout goes on, with the digest that they were asked about
    one refused      Failed, with the gate's code and message
    one unknown      AtGate: the deployment waits, and all gates are asked again; after the gate's longest wait, Failed

An attempt asks the gates as they are set when it begins to ask. A later change of the gates applies to the next
attempt, if there is one.

A gate whose recorded verdict still holds is not asked again. A gate's longest wait counts from the first time that it
was asked about the digest. That time is recorded before the gate is asked, so the wait does not start anew after a
restart, on another gateway or with a further push of the same digest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from gateway.gates.asking import Answer, ask_all, clock_from
from gateway.gates.gate import LONGEST_WAIT, Gate, Sources
from gateway.model.alerts import EventKind, of_deployment
from gateway.model.deployments import LeaseLost
from gateway.model.errors import AtGate, Code, Failed, Reason
from gateway.model.gates import Candidate, Decision, GateSetting, Level, Verdict, effective, passed, unknown
from gateway.store import gate_verdicts, gates, outbox
from gateway.store.database import Connection, statement, transaction
from gateway.store.gate_verdicts import Known, Override
from gateway.store.gates import Owner
from gateway.worker.alerts import Alert, AlertSink
from gateway.worker.metrics import VERDICTS

_LOG = structlog.get_logger()

# A gate that does not say when to ask again is asked after this part of the time that the deployment has waited at it,
# within these bounds in seconds.
_PART, _SHORTEST, _LONGEST = 0.5, 2.0, 300.0
_AFTER_OPENING = timedelta(hours=1)  # the longest wait lasts so long after the gate opens: no gateway may run then
_MAX_NAMED = 5  # gates in one message
_BEING_ASKED = "it is being asked"
_AUTOMATIC = (
    "not asked: the gateway itself brings back a version that has served, since what serves now is broken; a gate "
    "would leave that serving"
)
_SERVED = "not asked: this version has served before, and a rollback to such a version passes"


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """Asks the gates of one claimed deployment. Its gates are those of `gates`, by kind."""

    sources: Sources
    gates: Mapping[str, Gate]
    alerts: AlertSink

    async def ask(self, candidate: Candidate) -> str:
        """Return the gates' answers in words when all gates let the candidate pass.

        Raises AtGate when the deployment must wait, Failed when a gate refuses or its longest wait has ended, and
        LeaseLost when another gateway has taken over. Unless the lease is lost, the verdicts are recorded first.
        """
        deployment = candidate.deployment
        async with statement(self.sources.pool) as connection:
            # Read first: a later change of the gates or of an answer wakes the deployment, which changes this number.
            wakes = await gate_verdicts.select_wakes(connection, deployment.deployment_id)
            settings = await self._settings(connection, candidate)
            known = await gate_verdicts.select_known(connection, candidate, settings)
        candidate = replace(candidate, served_before=candidate.served_before or known.served_before)
        clock = clock_from(known.now)
        since = {one.gate_id: known.first_asked.get(one.gate_id, known.now) for one in settings}
        settled = {one.gate_id: answer for one in settings if (answer := self._settled(one, candidate, known))}
        to_ask = [one for one in settings if one.gate_id not in settled]
        if any(one.gate_id not in known.first_asked for one in to_ask):
            await self._record_first(candidate, to_ask, settled, since, known)
        asked = await ask_all(self.sources, self.gates, to_ask, candidate, clock, first_asked=since)
        answers = [*settled.values(), *asked]
        new = await self._record(candidate, answers, since, known)
        for answer in asked:
            _log(answer)
        for answer in new:
            await self._tell(answer, candidate)
        return _conclude(answers, since, clock(), wakes=wakes)

    async def recall(self, candidate: Candidate) -> str:
        """Return in words that the candidate passed when it was prepared, without asking a gate.

        Raises Failed when the configuration, or a gate in force, has changed since then: no gate was asked about the
        present configuration, and a gate that was set or changed was not asked as it is now.
        """
        deployment_id = candidate.deployment.deployment_id
        async with statement(self.sources.pool) as connection:
            settings = await self._settings(connection, candidate)
            verdicts = await gate_verdicts.select_verdicts(connection, deployment_id)
        asked_about = {(one.digest, one.spec_hash) for one in verdicts}
        if asked_about - {(candidate.digest, candidate.spec_hash)}:
            what = "its configuration changed after its gates had let it pass, while it waited for its release"
            raise Failed(Code.GATE_REFUSED, what)
        let_pass = {(one.gate_id, one.rule_hash) for one in verdicts if one.verdict is Verdict.PASSED}
        if unasked := [one.name for one in settings if (one.gate_id, one.rule_hash) not in let_pass]:
            what = f"gate {_list(unasked)} was set or changed while it waited for its release: release again"
            raise Failed(Code.GATE_REFUSED, what)
        return "passed when it was prepared"

    async def _settings(self, connection: Connection, candidate: Candidate) -> list[GateSetting]:
        """Return the gates that are in force for the candidate now."""
        owner = Owner(Level.APPLICATION, candidate.deployment.application_id)
        return effective(await gates.select_gates(connection, self.sources.vault, owner))

    def _settled(self, setting: GateSetting, candidate: Candidate, known: Known) -> Answer | None:
        """Return the answer where the gate need not be asked."""
        gate = self.gates.get(setting.kind)
        if candidate.is_automatic_rollback:
            return Answer(setting, passed(_AUTOMATIC, {"asked": False}), gate)
        if gate is not None and gate.lets_rollbacks_pass and candidate.rolls_back:
            return Answer(setting, passed(_SERVED, {"asked": False}), gate)
        if (override := known.overrides.get(setting.gate_id)) is not None:
            return Answer(setting, _overridden(override), gate)
        if (kept := known.kept.get(setting.gate_id)) is not None:
            return Answer(setting, kept.decision, gate)
        return None

    async def _record_first(
        self,
        candidate: Candidate,
        to_ask: Sequence[GateSetting],
        settled: Mapping[str, Answer],
        since: Mapping[str, datetime],
        known: Known,
    ) -> None:
        """Record, before the gates are asked about this digest, since when they are."""
        asking = unknown(Code.GATE_UNANSWERED, _BEING_ASKED)
        decisions = [(one.setting, one.decision) for one in settled.values()] + [(one, asking) for one in to_ask]
        async with transaction(self.sources.pool) as connection:
            if not await gate_verdicts.upsert_verdicts(connection, candidate, decisions, since, invited=known.invited):
                raise LeaseLost(candidate.deployment.deployment_id)

    async def _record(
        self, candidate: Candidate, answers: Sequence[Answer], since: Mapping[str, datetime], known: Known
    ) -> list[Answer]:
        """Record the answers; return those for which a person is to be invited to decide, and has not been yet."""
        waits = [one for one in answers if one.decision.verdict is Verdict.UNKNOWN and one.gate and one.gate.invite]
        invited = {one.setting.gate_id for one in waits}
        decisions = [(one.setting, one.decision) for one in answers]
        async with transaction(self.sources.pool) as connection:
            if not await gate_verdicts.upsert_verdicts(
                connection, candidate, decisions, since, invited={*known.invited, *invited}
            ):
                raise LeaseLost(candidate.deployment.deployment_id)
            new = [one for one in waits if one.setting.gate_id not in known.invited]
            for one in new:
                reason = Reason(one.decision.code, f"gate {one.setting.name}: {one.decision.message}")
                event = of_deployment(
                    candidate.deployment, EventKind.WAITING, reason, digest=candidate.digest, once=f":{reason.code}"
                )
                await outbox.write_event(connection, event)
        return new

    async def _tell(self, answer: Answer, candidate: Candidate) -> None:
        """Send an alert that the deployment waits for a person at this gate."""
        if answer.gate is None or answer.gate.invite is None:
            return
        try:
            invitation = await answer.gate.invite(self.sources, answer.setting, answer.rule, candidate)
        except Exception:
            _LOG.exception("An invitation failed on a defect", gate=answer.setting.name)
            invitation = ""
        alert = Alert.of(
            candidate.application.name,
            f"a deployment waits at the gate {answer.setting.name}",
            candidate.deployment,
            answer.decision.reason,
        )
        self.alerts.send(replace(alert, body="\n".join(filter(None, [alert.body, invitation]))))


def _overridden(override: Override) -> Decision:
    return passed(
        f"{override.overridden_by} let it pass: {override.reason}",
        {
            "overridden": {
                "by": override.overridden_by,
                "reason": override.reason,
                "at": override.created_at.isoformat(),
            }
        },
    )


def _conclude(answers: Sequence[Answer], since: Mapping[str, datetime], now: datetime, *, wakes: int) -> str:
    """Return the answers in words when all have passed; raises Failed or AtGate."""
    if denied := [one for one in answers if one.decision.verdict is Verdict.REFUSED]:
        first = denied[0]
        also = f"; {_names(denied[1:])} refuse it too" if len(denied) > 1 else ""
        raise Failed(first.decision.code, f"gate {first.setting.name}: {first.decision.message}{also}")
    waits = [one for one in answers if one.decision.verdict is Verdict.UNKNOWN]
    if not waits:
        return f"passed {_names(answers)}" if answers else "none applies"
    for one in waits:
        begun = since[one.setting.gate_id]
        if now - begun >= (longest := _longest_wait(one, begun)):
            message = (
                f"gate {one.setting.name} did not let it pass within {longest.total_seconds():.0f} s, since "
                f"{begun:%Y-%m-%d %H:%M:%S} UTC; the last answer: {one.decision.message}"
            )
            raise Failed(Code.GATE_EXPIRED, message)
    first = waits[0]
    also = f"; it waits at {_names(waits[1:])} too" if len(waits) > 1 else ""
    reason = Reason(first.decision.code, f"gate {first.setting.name}: {first.decision.message}{also}")
    delay = min(_delay(one, since[one.setting.gate_id], now) for one in waits)
    raise AtGate(reason, retry_after=delay, wakes=wakes)


def _longest_wait(answer: Answer, begun: datetime) -> timedelta:
    """Return the longest wait at the gate since `begun`. If the gate opens at a known time, it lasts beyond that."""
    gate, rule = answer.gate, answer.rule
    if gate is None or rule is None:
        return timedelta(seconds=LONGEST_WAIT if gate is None else gate.longest_wait)
    longest = timedelta(seconds=gate.wait_of(rule))
    opening = gate.opens(rule, begun) if gate.opens else None
    return longest if opening is None else max(longest, opening - begun + _AFTER_OPENING)


def _delay(answer: Answer, begun: datetime, now: datetime) -> float:
    """Return the seconds until the gate is asked again, which is at the latest when its longest wait ends."""
    left = (begun + _longest_wait(answer, begun) - now).total_seconds()
    if answer.decision.ask_again_at is not None:
        wanted = max((answer.decision.ask_again_at - now).total_seconds(), _SHORTEST)
    else:
        wanted = min(max((now - begun).total_seconds() * _PART, _SHORTEST), _LONGEST)
    return max(min(wanted, left), 0.0)


def _names(answers: Sequence[Answer]) -> str:
    return _list([one.setting.name for one in answers])


def _list(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _log(answer: Answer) -> None:
    setting, decision = answer.setting, answer.decision
    VERDICTS.labels(setting.kind, decision.verdict).inc()
    _LOG.info(
        "A gate answered",
        gate=setting.name,
        kind=setting.kind,
        verdict=decision.verdict,
        code=decision.code,
        reason=decision.message,
    )
