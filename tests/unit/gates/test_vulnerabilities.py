"""What the rule of the gate refuses, accepts for a time, and compares."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.gates._database import Database
from gateway.gates.report import Finding, Report, Severity, worst
from gateway.gates.vulnerabilities import Facts, Rule, decide
from gateway.model.errors import Code
from gateway.model.gates import Decision, Verdict
from gateway.model.reference import Digest
from tests.support.candidates import a_candidate

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
NEW, OLD = Digest("sha256:" + "a" * 64), Digest("sha256:" + "b" * 64)
DATABASE = Database(NOW - timedelta(hours=5), NOW + timedelta(hours=19))


def finding(cve: str, severity: Severity = Severity.CRITICAL, fixed: str = "2", package: str = "openssl") -> Finding:
    return Finding(cve, package, "1", fixed, severity, "")


def facts(*findings: Finding, running: list[Finding] | None = None, **about: Any) -> Facts:
    before = None if running is None else Report("trivy", "1", worst(running))
    return Facts(Report("trivy", "1", worst(findings), **about), DATABASE, before)


def decided(rule: dict[str, Any], found: Facts, now: datetime = NOW, serving: Digest | None = OLD) -> Decision:
    return decide(Rule.model_validate(rule), found, a_candidate(NEW, serving=serving), now)


@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("least", Severity)
def test_what_is_as_severe_as_the_rule_says_is_refused(severity: Severity, least: Severity) -> None:
    decision = decided({"block": least.word}, facts(finding("CVE-1", severity)))
    assert decision.verdict is (Verdict.REFUSED if severity >= least else Verdict.PASSED)


def test_a_refusal_names_the_worst_findings_and_how_old_the_database_is() -> None:
    found = [finding(f"CVE-{number}", Severity.HIGH) for number in range(60)]
    decision = decided({"block": "high"}, facts(*found, finding("CVE-X", fixed="")))
    assert decision.code is Code.VULNERABLE
    assert "found 61 of severity high or worse: CVE-X in openssl 1, not fixed yet; CVE-0 in" in decision.message
    assert decision.message.endswith("; and 56 more")
    assert len(decision.evidence["worst"]) == 50
    assert decision.evidence["databaseAge"] == "5 h"
    assert decision.evidence["counts"]["high"] == 60


def test_what_nobody_has_mended_passes_where_the_rule_is_about_what_can_be_fixed() -> None:
    assert decided({"fixable": True}, facts(finding("CVE-1", fixed=""))).verdict is Verdict.PASSED
    assert decided({"fixable": True}, facts(finding("CVE-1"))).verdict is Verdict.REFUSED


def test_an_accepted_finding_counts_again_the_day_after_and_is_named() -> None:
    rule = {"ignore": [{"id": "cve-1", "package": "openssl", "until": "2026-12-01", "reason": "not reachable"}]}
    assert decided(rule, facts(finding("CVE-1"))).verdict is Verdict.PASSED
    assert decided(rule, facts(finding("CVE-1", package="musl"))).verdict is Verdict.REFUSED
    midnight = datetime(2026, 12, 2, tzinfo=UTC)
    assert decided(rule, facts(finding("CVE-1")), midnight - timedelta(seconds=1)).verdict is Verdict.PASSED
    decision = decided(rule, facts(finding("CVE-1")), midnight)
    assert decision.verdict is Verdict.REFUSED
    assert "cve-1 in openssl was accepted until 2026-12-01" in decision.message
    assert decision.evidence["expired"] == [{"id": "cve-1", "until": "2026-12-01", "reason": "not reachable"}]


def test_a_file_accepts_findings_as_the_list_does() -> None:
    text = "# accepted by security\n\nCVE-1 exp:2026-12-31 # no TLS client\nCVE-2 openssl exp:2026-12-31 #no way in\n"
    rule = Rule.model_validate({"ignoreFile": text})
    assert [(one.id, one.package, one.until) for one in rule.entries] == [
        ("CVE-1", None, date(2026, 12, 31)),
        ("CVE-2", "openssl", date(2026, 12, 31)),
    ]
    assert decided({"ignoreFile": text}, facts(finding("CVE-1"), finding("CVE-2"))).verdict is Verdict.PASSED
    assert Rule.model_validate(rule.model_dump(mode="json", by_alias=True)) == rule


@pytest.mark.parametrize(
    "line", ["CVE-1", "CVE-1 exp:2026-12-31", "CVE-1 # why", "CVE-1 exp:2026-13-31 # why", "CVE 1 x exp:2026-12-31 # y"]
)
def test_a_finding_is_accepted_only_with_an_end_and_a_reason(line: str) -> None:
    with pytest.raises(ValidationError, match=r"line 2 of the file must be like: CVE-2026-1234 exp:2027-01-31 # why"):
        Rule.model_validate({"ignoreFile": f"# accepted\n{line}"})
    with pytest.raises(ValidationError):
        Rule.model_validate({"ignore": [{"id": "CVE-1", "until": "2026-12-31"}]})


@pytest.mark.parametrize(
    ("running", "verdict"),
    [
        (["CVE-1", "CVE-2"], Verdict.PASSED),
        (["CVE-1", "CVE-2", "CVE-3"], Verdict.PASSED),
        (["CVE-1"], Verdict.REFUSED),
        ([], Verdict.REFUSED),
        (None, Verdict.UNKNOWN),
    ],
)
def test_what_the_running_version_has_too_passes_where_the_rule_says_so(
    running: list[str] | None, verdict: Verdict
) -> None:
    before = None if running is None else [finding(cve, Severity.LOW) for cve in running]
    found = facts(finding("CVE-1"), finding("CVE-2"), running=before)
    decision = decided({"noWorseThanRunning": True}, found)
    assert decision.verdict is verdict
    assert decided({}, found).verdict is Verdict.REFUSED
    if running == ["CVE-1"]:
        assert "found 1 of severity critical or worse that what runs now has not: CVE-2" in decision.message


def test_the_first_version_is_compared_with_nothing_and_the_running_one_with_itself() -> None:
    rule, found = {"noWorseThanRunning": True}, facts(finding("CVE-1"))
    assert decided(rule, found, serving=None).verdict is Verdict.REFUSED
    assert decided(rule, found, serving=NEW).verdict is Verdict.PASSED


def test_a_pass_holds_until_the_next_database_and_some_hours_at_most() -> None:
    assert decided({}, facts()).true_until == NOW + timedelta(hours=6)
    late = DATABASE.next_update and DATABASE.next_update - timedelta(hours=1)
    assert late is not None
    assert decided({}, facts(), late).true_until == DATABASE.next_update
    assert decided({}, facts(), late + timedelta(hours=2)).true_until is None
    ends = {"ignore": [{"id": "CVE-1", "until": "2026-12-01", "reason": "r"}]}
    night = datetime(2026, 12, 1, 22, tzinfo=UTC)
    assert decided(ends, facts(finding("CVE-1")), night).true_until == datetime(2026, 12, 2, tzinfo=UTC)


def test_a_comparison_holds_for_no_other_deployment() -> None:
    found = facts(finding("CVE-1"), running=[finding("CVE-1")])
    assert decided({"noWorseThanRunning": True}, found).true_until is None


def test_a_pass_says_where_the_scanner_could_see_little() -> None:
    assert "recognised no packages" in decided({}, facts(recognised=False)).message
    message = decided({}, facts(finding("CVE-1", Severity.LOW), system="alpine 3.1", unsupported=True)).message
    assert message == (
        "trivy found 1 low, by a database 5 h old; alpine 3.1 is no longer supported, so new ones are not reported"
    )
