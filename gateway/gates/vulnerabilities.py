"""The gate `vulnerabilities`: a scanner must find nothing in the image that is as bad as the rule says.

What is scanned is what the engine may run: of an index the manifest for its platform, by its own digest, so that the
scanner has nothing to choose; where the engine could choose another one, that too. On a Swarm it is what any of the
nodes may run.

What it finds is a question of the day: a verdict holds until the scanner's database is replaced, some hours at most.
A scanner that gives no report leaves the verdict unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gateway.gates import _scanners
from gateway.gates._database import Database
from gateway.gates._duration import Duration
from gateway.gates._exceptions import Entry, expired, parse_entries, unaccepted
from gateway.gates._scanners import Scan
from gateway.gates._strict_json import Malformed
from gateway.gates.gate import Gate, GateRule, Sources
from gateway.gates.report import Finding, Report, Severity, common, together
from gateway.gates.scan import Scanner, scans_of_this_process
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.gates import Candidate, Decision, GateSetting, passed, refused, unknown
from gateway.model.reference import Digest, Reference
from gateway.store import deployments
from gateway.store.database import statement

_SHOWN = 50  # findings of the evidence
_NAMED = 5  # findings of the message
_LONGEST_TRUTH = timedelta(hours=6)
_LEAST_TIMEOUT, _MOST_TIMEOUT = timedelta(seconds=5), timedelta(minutes=10)
_TOO_BIG = 100_000  # characters of an ignore file


class Rule(GateRule):
    """`block` is the least severity that is refused; `fixable`: only where a fixed version exists.

    `ignore` and `ignoreFile` accept findings for a time. `noWorseThanRunning`: what the running version has too passes.
    `wait` is the longest wait for a scanner that gives no report, in seconds.
    """

    block: Literal["critical", "high", "medium", "low", "negligible", "unknown"] = "critical"
    fixable: bool = False
    no_worse_than_running: bool = False
    ignore: Annotated[tuple[Entry, ...], Field(max_length=500)] = ()
    ignore_file: Annotated[str, Field(max_length=_TOO_BIG)] = ""
    scanner: _scanners.Name = "trivy"
    max_database_age: Duration = timedelta(days=7)
    timeout: Duration = timedelta(minutes=5)
    wait: Annotated[float, Field(gt=0, le=31_622_400)] = 86_400.0

    @field_validator("ignore_file")
    @classmethod
    def _check_file(cls, text: str) -> str:
        parse_entries(text)
        return text

    @field_validator("timeout")
    @classmethod
    def _check_timeout(cls, given: timedelta) -> timedelta:
        if not _LEAST_TIMEOUT <= given <= _MOST_TIMEOUT:
            raise ValueError("write a timeout from 5s to 10m; a scan takes a minute or two")
        return given

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All findings that are accepted for a time."""
        return self.ignore + parse_entries(self.ignore_file)


@dataclass(frozen=True, slots=True)
class Facts:
    """The reports about the image, and about the running one where they are to be compared.

    Of an image for several platforms, `report` is about all that may run; `scanned` is what that is.
    """

    report: Report
    database: Database | None
    running: Report | None = None
    scanned: Sequence[Digest] = ()


async def gather(sources: Sources, _setting: GateSetting, rule: Rule, candidate: Candidate) -> Facts:
    """Scan the image; and the running one, if it decides. Raises Postponed."""
    settings = sources.settings
    own = sources.scans or scans_of_this_process()
    scanner = Scanner(rule.scanner, settings, sources.pool, own, rule.max_database_age)
    try:
        credentials = await sources.registry.credentials(candidate.login)
    except Failed as error:
        raise Postponed(Code.GATE_UNANSWERED, f"the scanner gets no login: {error}") from error
    scan = Scan(
        candidate.reference.with_digest(candidate.digest),
        candidate.platform,
        rule.timeout.total_seconds(),
        credentials,
        candidate.login.ca_certificates,
        _scanners.is_insecure(candidate.reference.repository.domain, settings.insecure_registries),
    )
    scans = await _scans(sources, scanner, scan, candidate)
    results = [await scanner.report(one) for one in scans]
    report, database = together([one for one, _ in results]), results[-1][1]
    facts = Facts(report, database, scanned=[one.digest for one in scans])
    compared = rule.no_worse_than_running and blocking(rule, report, datetime.now(UTC))
    if not compared or candidate.serving in {None, candidate.digest}:
        return facts
    return replace(facts, running=await _running(sources, scanner, scan, candidate))


async def _scans(sources: Sources, scanner: Scanner, scan: Scan, candidate: Candidate) -> list[Scan]:
    """Return the scans of all images that may run of the one that this scan is of. Raises Postponed."""
    scans: dict[Digest, Scan] = {}
    wanted = sorted({candidate.platform, *candidate.node_platforms})
    try:
        for platform in wanted:
            may_run = await scanner.scans.indexes.may_run(sources.registry, scan.reference, candidate.login, platform)
            if may_run is None:
                return [scan]
            for digest in may_run:
                scans[digest] = replace(scan, reference=scan.reference.with_digest(digest), platform=platform)
    except Failed as error:
        raise Postponed(Code.GATE_UNANSWERED, f"nobody can tell what is to be scanned: {error}") from error
    except Malformed as error:
        message = f"the index {scan.reference} {error}: nobody can tell which image would run. Build and push it again"
        raise Postponed(Code.GATE_UNANSWERED, message) from error
    if not scans:
        raise Postponed(Code.GATE_UNANSWERED, f"the index {scan.reference} has no image for {', '.join(wanted)}")
    return list(scans.values())


async def _running(sources: Sources, scanner: Scanner, scan: Scan, candidate: Candidate) -> Report:
    """Scan what serves now, where it came from. Raises Postponed."""
    serving = candidate.serving
    if serving is None:
        raise ValueError("nothing serves")
    came_from = await _origin(sources, candidate, serving)
    there = replace(scan, reference=came_from)
    if came_from.repository.domain != scan.reference.repository.domain:  # the login is not for it
        raise _not_compared(f"{came_from} is in another registry")
    try:
        results = [await scanner.report(one) for one in await _scans(sources, scanner, there, candidate)]
    except Postponed as error:
        raise _not_compared(str(error), retry_after=error.retry_after) from error
    return common([report for report, _ in results])


def _not_compared(why: str, *, retry_after: float | None = None) -> Postponed:
    return Postponed(
        Code.GATE_UNANSWERED,
        f"the image has findings that pass only where the running one has them too, which could not be scanned: {why}",
        retry_after=retry_after,
    )


async def _origin(sources: Sources, candidate: Candidate, digest: Digest) -> Reference:
    """Return the image of this digest as it was deployed; else as if it were in the repository of the new one."""
    async with statement(sources.pool) as connection:
        known = await deployments.select_reference_of(connection, candidate.application.application_id, digest)
    return Reference((known or candidate.reference).repository, None, digest)


def blocking(rule: Rule, report: Report, now: datetime) -> list[Finding]:
    """Return the findings that the rule refuses, the worst first."""
    return unaccepted(_severe(rule, report), rule.entries, now)


def _severe(rule: Rule, report: Report) -> list[Finding]:
    least = Severity.parse(rule.block)
    return [one for one in report.findings if one.severity >= least and (one.fixed or not rule.fixable)]


def decide(rule: Rule, facts: Facts, candidate: Candidate, now: datetime) -> Decision:
    """Judge the report by the rule; where the rule says so, by what the running version has."""
    report, blocked = facts.report, blocking(rule, facts.report, now)
    lapsed = expired(blocked, rule.entries, now)
    evidence = _evidence(facts, blocked, lapsed, now)
    if not blocked:
        return passed(_describe_pass(rule, facts, now), evidence, true_until=_true_until(rule, facts, now))
    worse, what = blocked, ""
    if rule.no_worse_than_running and candidate.serving is not None:
        if candidate.serving == candidate.digest:
            return passed("this image runs already, so it is no worse than what runs", evidence)
        if facts.running is None:
            return unknown(Code.GATE_UNANSWERED, "the running image is to be scanned, too", evidence, ask_again_at=now)
        what, known = " that what runs now has not", {one.key for one in facts.running.findings}
        worse = [one for one in blocked if one.key not in known]
        evidence = {**evidence, "notInRunning": [one.shown() for one in worse[:_SHOWN]]}
        if not worse:
            return passed(f"what runs now has all of the {len(blocked)} findings too", evidence)
    named = "; ".join(_name(one) for one in worse[:_NAMED])
    more = f"; and {len(worse) - _NAMED} more" if len(worse) > _NAMED else ""
    ended = "".join(f"; {one} was accepted until {one.until}" for one in lapsed[:_NAMED])
    return refused(
        Code.VULNERABLE,
        f"{report.scanner} found {len(worse)} {'fixable ' if rule.fixable else ''}of severity {rule.block} or worse"
        f"{what}: {named}{more}{ended}",
        evidence,
    )


def _name(one: Finding) -> str:
    fixed = f", fixed in {one.fixed}" if one.fixed else ", not fixed yet"
    return f"{one.vulnerability} in {one.package} {one.installed}{fixed}"


def _describe_pass(rule: Rule, facts: Facts, now: datetime) -> str:
    report = facts.report
    if not report.recognised:
        return f"{report.scanner} recognised no packages in the image, and so has found nothing"
    found = ", ".join(f"{count} {word}" for word, count in report.counts().items() if count) or "nothing"
    since = f", by a database {_age(facts.database, now)} old" if facts.database else ""
    support = f"; {report.system} is no longer supported, so new ones are not reported" if report.unsupported else ""
    accepted = len(_severe(rule, report))
    also = f"; {accepted} of them accepted for now" if accepted else ""
    return f"{report.scanner} found {found}{also}{since}{support}"


def _age(database: Database, now: datetime) -> str:
    hours = max(now - database.updated_at, timedelta()) / timedelta(hours=1)
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"  # noqa: PLR2004 - easier to read so


def _true_until(rule: Rule, facts: Facts, now: datetime) -> datetime | None:
    """Return until when a pass holds: the next database, the end of what is accepted, some hours at most."""
    ends: Sequence[datetime] = [one.ends_at for one in rule.entries if one.ends_at > now]
    if facts.database is None or facts.database.next_update is None or facts.database.next_update <= now:
        return None  # a newer one may be there any moment
    return min([now + _LONGEST_TRUTH, facts.database.next_update, *ends])


def _evidence(facts: Facts, blocked: Sequence[Finding], lapsed: Sequence[Entry], now: datetime) -> dict[str, Any]:
    report, database = facts.report, facts.database
    return {
        "scanner": report.scanner,
        "version": report.version,
        "database": None if database is None else database.version,
        "databaseAge": None if database is None else _age(database, now),
        "system": report.system,
        "supported": not report.unsupported,
        "recognised": report.recognised,
        "counts": report.counts(),
        "blocking": len(blocked),
        "scanned": list(facts.scanned),
        "worst": [one.shown() for one in (blocked or report.findings)[:_SHOWN]],
        "expired": [{"id": one.id, "until": one.until.isoformat(), "reason": one.reason} for one in lapsed[:_SHOWN]],
    }


GATE = Gate(
    "vulnerabilities",
    Rule,
    gather,
    decide,
    title="Refuse images with known vulnerabilities",
    timeout=2.5 * _MOST_TIMEOUT.total_seconds(),  # to wait for a slot, and for two scans
)
