"""Read the reports of scanners: Trivy's JSON, Grype's JSON, Docker Scout's SARIF. It performs no I/O.

https://trivy.dev/docs/latest/configuration/reporting/#json
https://github.com/anchore/grype/blob/main/grype/presenter/models/document.go
https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html

All text in a report comes from the image, so from its builder: it is bounded, and made safe to show.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any
from urllib.parse import unquote

import orjson

from gateway.model.errors import InvalidInput, storable_text
from gateway.model.sanitize import safe_line

_SHORT, _LONG = 200, 300  # characters
_MOST = 100_000  # findings
_TRIVY_SCHEMA = 2
_REPORT = "not a report of"
_WANTED = (
    "what is called in place of a scanner must print Trivy's or Grype's JSON, or Docker Scout's SARIF (--format sarif)"
)
# What the scanners can print besides, by a field that only it has. None of it says all that a rule needs.
_OTHER_FORMS = (
    ("spdxVersion", "the form SPDX, which lists packages"),
    ("bomFormat", "the form CycloneDX"),
    ("vulnerabilities", "GitLab's form, which does not say what is fixed"),
    ("artifacts", "Docker Scout's or Syft's form of a list of packages"),
)


class Severity(IntEnum):
    """How bad a finding is. UNKNOWN: nobody has said."""

    UNKNOWN = 0
    NEGLIGIBLE = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, word: object) -> "Severity":
        """Raises InvalidInput."""
        found = cls.__members__.get(str(word).upper()) if isinstance(word, str) else None
        if found is None:
            raise InvalidInput(f"a finding has the severity {_line(word)!r}, which is none")
        return found


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability of a package. `fixed` is empty where no version has mended it."""

    vulnerability: str
    package: str
    installed: str
    fixed: str
    severity: Severity
    title: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same finding in another image."""
        return self.vulnerability, self.package

    def shown(self) -> dict[str, str]:
        return {
            "id": self.vulnerability,
            "package": self.package,
            "installed": self.installed,
            "fixed": self.fixed,
            "severity": self.severity.word,
            "title": self.title,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a scanner found in an image. The worst findings come first."""

    scanner: str
    version: str
    findings: Sequence[Finding]
    #: name and version of the distribution, empty where the scanner recognised none
    system: str = ""
    #: whether the distribution has ended its support, so that nobody reports its vulnerabilities any more
    unsupported: bool = False
    #: whether the scanner recognised a list of packages, of the distribution or of a language
    recognised: bool = True
    #: when its database was made, where the report says so
    database_from: datetime | None = None

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each severity, the worst first."""
        counted = Counter(one.severity for one in self.findings)
        return {severity.word: counted[severity] for severity in sorted(Severity, reverse=True)}


def together(reports: Sequence[Report]) -> Report:
    """Return one report about several images: it has what any of them has."""
    first, *others = reports
    return replace(
        first,
        findings=worst(finding for one in reports for finding in one.findings) if others else first.findings,
        unsupported=any(one.unsupported for one in reports),
        recognised=all(one.recognised for one in reports),
    )


def common(reports: Sequence[Report]) -> Report:
    """Return one report about several images: it has what all of them have."""
    first, *others = reports
    keys = [{finding.key for finding in one.findings} for one in others]
    return replace(first, findings=[one for one in first.findings if all(one.key in every for every in keys)])


def worst(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, the worst first, each once; of those alike, the ones that can be fixed first."""
    return sorted(set(findings), key=lambda one: (-one.severity, not one.fixed, one.vulnerability, one.package))


def parse(text: bytes, *, subject: str | None = None) -> Report:
    """Read a report of any of the scanners. Raises InvalidInput unless it is one, about this subject if one is given.

    `subject` is the image as the scanner was asked about it. Scout's SARIF does not say which image it is about.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the report is not JSON ({_line(error)}); {_WANTED}") from error
    if not isinstance(document, dict):
        raise InvalidInput("the report is not a JSON object")
    try:
        if "SchemaVersion" in document:
            return _bounded(_trivy(document, subject))
        if "matches" in document:
            return _bounded(_grype(document, subject))
        if "runs" in document:
            return _bounded(_sarif(document))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise InvalidInput(f"the report does not have the form that it should: {_line(repr(error))}") from error
    form = next((form for sign, form in _OTHER_FORMS if sign in document), None)
    is_one_of = f"the report has {form}" if form else "the report is none of Trivy, Grype or Docker Scout"
    raise InvalidInput(f"{is_one_of}; {_WANTED}")


def _bounded(report: Report) -> Report:
    if len(report.findings) > _MOST:
        raise InvalidInput(f"the report has {len(report.findings)} findings; {_MOST} are the most")
    return report


def _trivy(document: Mapping[str, Any], subject: str | None) -> Report:
    if document["SchemaVersion"] != _TRIVY_SCHEMA:
        raise InvalidInput(f"Trivy's report has schema {_line(document['SchemaVersion'])}; {_TRIVY_SCHEMA} is known")
    if subject not in {None, document["ArtifactName"]}:
        raise InvalidInput(f"Trivy's report is about {_line(document['ArtifactName'])}, not about {subject}")
    system = (document.get("Metadata") or {}).get("OS") or {}
    results = _objects(document.get("Results") or [])
    return Report(
        "trivy",
        _line((document.get("Trivy") or {}).get("Version", "")),
        worst(_trivy_finding(one) for result in results for one in _objects(result.get("Vulnerabilities") or [])),
        _line(f"{system.get('Family', '')} {system.get('Name', '')}").strip(),
        unsupported=system.get("EOSL") is True,
        recognised=bool(results),
    )


def _trivy_finding(one: Mapping[str, Any]) -> Finding:
    return Finding(
        _required(one["VulnerabilityID"]),
        _required(one["PkgName"]),
        _line(one.get("InstalledVersion", "")),
        _line(one.get("FixedVersion", "")),
        Severity.parse(one["Severity"]),
        _line(one.get("Title", ""), _LONG),
    )


def _grype(document: Mapping[str, Any], subject: str | None) -> Report:
    made_by, distribution = document["descriptor"], document.get("distro") or {}
    if made_by["name"] != "grype":
        raise InvalidInput(f"{_REPORT} Grype: {_line(made_by['name'])} made it")
    asked = document["source"]["target"]["userInput"]
    if subject not in {None, str(asked).removeprefix("registry:")}:
        raise InvalidInput(f"Grype's report is about {_line(asked)}, not about {subject}")
    return Report(
        "grype",
        _line(made_by.get("version", "")),
        worst(_grype_finding(one) for one in _objects(document["matches"])),
        _line(f"{distribution.get('name', '')} {distribution.get('version', '')}").strip(),
        database_from=_built(made_by.get("db") or {}),
    )


def _built(database: Mapping[str, Any]) -> datetime | None:
    """Return when Grype's database was made; its versions say so in two places."""
    built = (database.get("status") or database).get("built")
    return None if built is None else datetime.fromisoformat(str(built)).astimezone(UTC)


def _grype_finding(one: Mapping[str, Any]) -> Finding:
    vulnerability, package = one["vulnerability"], one["artifact"]
    fix = vulnerability.get("fix") or {}
    return Finding(
        _required(vulnerability["id"]),
        _required(package["name"]),
        _line(package.get("version", "")),
        _line(", ".join(map(str, fix.get("versions") or []))),
        Severity.parse(vulnerability["severity"]),
        _line(vulnerability.get("description", ""), _LONG),
    )


def _sarif(document: Mapping[str, Any]) -> Report:
    runs = _objects(document["runs"])
    if not runs:
        raise InvalidInput("the SARIF report has no run")
    driver = runs[0]["tool"]["driver"]
    if "scout" not in str(driver["name"]).lower():
        raise InvalidInput(f"{_REPORT} Docker Scout: {_line(driver['name'])} made it")
    return Report("scout", _line(driver.get("version", "")), worst(_sarif_findings(runs)))


def _sarif_findings(runs: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for run in runs:
        rules = {one["id"]: one for one in _objects(run["tool"]["driver"].get("rules") or [])}
        for result in _objects(run["results"]):
            rule = rules[result["ruleId"]]
            about = rule.get("properties") or {}
            word = about.get("cvssV3_severity") or (about.get("tags") or ["UNKNOWN"])[0]
            fixed = _line(about.get("fixed_version") or "")
            for purl in about.get("purls") or [about["purl"]]:
                package, installed = _package_of(str(purl))
                yield Finding(
                    _required(rule["id"]),
                    package,
                    installed,
                    "" if fixed.lower() == "not fixed" else fixed,
                    Severity.UNKNOWN if word == "UNSPECIFIED" else Severity.parse(word),
                    _line((rule.get("shortDescription") or {}).get("text", ""), _LONG),
                )


def _package_of(purl: str) -> tuple[str, str]:
    """Split a package URL into name and version: https://github.com/package-url/purl-spec."""
    name, _, version = purl.partition("?")[0].rpartition("@") if "@" in purl else (purl.partition("?")[0], "", "")
    return _required(unquote(name.removeprefix("pkg:"))), _line(unquote(version))


def _objects(found: object) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise TypeError("a list of objects is expected")
    return found


def _required(text: object) -> str:
    """Return a name, which decides whether findings are alike: a long one is cut, an empty one is an error."""
    if not isinstance(text, str) or not text:
        raise TypeError("a name is expected")
    return _line(text)


def _line(text: object, most: int = _SHORT) -> str:
    """Return foreign text on one line, without signs that act on a terminal, at most so long."""
    shown = storable_text(safe_line(str(text)[:most]))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
