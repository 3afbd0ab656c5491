"""Reports of the three scanners are read alike; what is no report, or has hostile text, does no harm."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.gates.report import Finding, Severity, parse
from gateway.model.errors import InvalidInput

SUBJECT = "docker.io/acme/web@sha256:" + "a" * 64

TRIVY: dict[str, Any] = {
    "SchemaVersion": 2,
    "Trivy": {"Version": "0.76.0"},
    "ArtifactName": SUBJECT,
    "Metadata": {"OS": {"Family": "alpine", "Name": "3.19.1", "EOSL": True}},
    "Results": [
        {
            "Class": "os-pkgs",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2026-1",
                    "PkgName": "openssl",
                    "InstalledVersion": "3.1.4-r0",
                    "FixedVersion": "3.1.5-r0",
                    "Severity": "CRITICAL",
                    "Title": "Flaw",
                }
            ],
        },
        {"Class": "lang-pkgs"},
    ],
}
GRYPE: dict[str, Any] = {
    "matches": [
        {
            "vulnerability": {
                "id": "CVE-2026-1",
                "severity": "Critical",
                "description": "Flaw",
                "fix": {"versions": ["3.1.5-r0"], "state": "fixed"},
            },
            "artifact": {"name": "openssl", "version": "3.1.4-r0"},
        }
    ],
    "source": {"type": "image", "target": {"userInput": SUBJECT}},
    "distro": {"name": "alpine", "version": "3.19.1"},
    "descriptor": {"name": "grype", "version": "0.80.0"},
}
SCOUT: dict[str, Any] = {
    "version": "2.1.0",
    "runs": [
        {
            "tool": {
                "driver": {
                    "name": "docker scout",
                    "version": "1.18.0",
                    "rules": [
                        {
                            "id": "CVE-2026-1",
                            "shortDescription": {"text": "Flaw"},
                            "properties": {
                                "cvssV3_severity": "CRITICAL",
                                "fixed_version": "3.1.5-r0",
                                "purls": ["pkg:apk/alpine/openssl@3.1.4-r0?os_name=alpine"],
                            },
                        }
                    ],
                }
            },
            "results": [{"ruleId": "CVE-2026-1", "message": {"text": ""}}],
        }
    ],
}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("document", "scanner", "package"),
    [(TRIVY, "trivy", "openssl"), (GRYPE, "grype", "openssl"), (SCOUT, "scout", "apk/alpine/openssl")],
)
def test_the_reports_of_all_scanners_say_the_same(document: object, scanner: str, package: str) -> None:
    report = parse(encoded(document), subject=SUBJECT)
    assert report.scanner == scanner
    assert report.findings == [Finding("CVE-2026-1", package, "3.1.4-r0", "3.1.5-r0", Severity.CRITICAL, "Flaw")]
    assert report.counts() == {"critical": 1, "high": 0, "medium": 0, "low": 0, "negligible": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"FATAL out of cheese", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "none of"),
        (b"## Overview\n0C 1H", r"not JSON .*Docker Scout's SARIF \(--format sarif\)"),
        (encoded({"version": "15.0.6", "vulnerabilities": [], "scan": {}}), r"GitLab's form, .*--format sarif"),
        (encoded({"spdxVersion": "SPDX-2.3", "packages": []}), "the form SPDX, .*--format sarif"),
        (encoded({"artifacts": [], "source": {}}), "form of a list of packages; .*--format sarif"),
        (b'{"a":' * 100_000, "not JSON"),  # deeper than anything that is meant
        (encoded({**TRIVY, "SchemaVersion": 3}), "schema 3"),
        (encoded({**TRIVY, "ArtifactName": "docker.io/acme/other"}), "not about docker.io/acme/web"),
        (encoded({**TRIVY, "Results": "none"}), "form"),
        (encoded({**TRIVY, "Results": [{"Vulnerabilities": [{}]}]}), "form"),
        (encoded({**TRIVY, "Results": [{"Vulnerabilities": ["CVE"]}]}), "form"),
        (encoded({"SchemaVersion": 2}), "form"),
        (encoded({**GRYPE, "descriptor": {"name": "other"}}), "other made it"),
        (encoded({**GRYPE, "source": {"target": {"userInput": "x"}}}), "not about"),
        (encoded({**GRYPE, "source": {"target": "/"}}), "form"),
        (encoded({"runs": []}), "no run"),
        (encoded({"runs": [{"tool": {"driver": {"name": "CodeQL"}}, "results": []}]}), "CodeQL made it"),
    ],
)
def test_what_is_no_report_about_the_image_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        parse(text, subject=SUBJECT)


def test_a_severity_that_does_not_exist_is_no_harmless_one() -> None:
    found = {"VulnerabilityID": "CVE-1", "PkgName": "p", "Severity": "SEVERE"}
    with pytest.raises(InvalidInput, match="SEVERE"):
        parse(encoded({**TRIVY, "Results": [{"Vulnerabilities": [found]}]}), subject=SUBJECT)


def test_text_from_an_image_acts_on_no_terminal_and_is_bounded() -> None:
    name = "\x1b]52;c;AAAA\x07\u202egnp.exe\x00\ud800" + "x" * 10_000
    found = {"VulnerabilityID": name, "PkgName": name, "Severity": "LOW", "Title": name, "InstalledVersion": name}
    text = encoded({**TRIVY, "Results": [{"Vulnerabilities": [found]}]}).replace(b"\\ud800", b"")
    (finding,) = parse(text, subject=SUBJECT).findings
    for shown in finding.shown().values():
        assert shown.isprintable()
        assert len(shown) <= 300


@pytest.mark.parametrize("where", ["db", "db.status"])
def test_grype_says_when_its_database_was_made(where: str) -> None:
    built = {"built": "2026-11-30T04:05:06Z"}
    made_by = {"name": "grype", "db": built if where == "db" else {"status": built}}
    report = parse(encoded({**GRYPE, "descriptor": made_by}))
    assert report.database_from == datetime(2026, 11, 30, 4, 5, 6, tzinfo=UTC)


def test_an_image_without_packages_is_told_from_one_without_findings() -> None:
    assert parse(encoded(TRIVY), subject=SUBJECT).recognised
    assert not parse(encoded({**TRIVY, "Results": None}), subject=SUBJECT).recognised
