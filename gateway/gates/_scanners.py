"""The scanners: how each is called, what it is given, and what its complaints mean. It performs no I/O.

None gets a secret in its arguments. Trivy reads the registry's password from its standard input; Grype takes it from
its own environment. Nothing is downloaded but the image.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.gates._process import Command, Ended
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Credentials
from gateway.model.sanitize import safe_line

Name = Literal["trivy", "grype", "scout"]

_COMPLAINT = re.compile(r"^.{0,40}(?:FATAL|ERROR)\s+(?:Fatal error|Error)?\s*(.+)")
_SHOWN = 400  # characters of a complaint
_MAX_PROCESSORS = 2
_AUTHORITIES = "authorities.pem"
# A soft limit below the hard one: a program in Go then collects its garbage more eagerly.
_QUIET = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "GOMEMLIMIT": "1536MiB"} | {
    "GOMAXPROCS": str(_MAX_PROCESSORS)
}

# What a complaint of the scanner means, and what to do.
_MEANINGS = (
    (
        "Java DB",
        "the image has Java archives, for which Trivy needs its index of them: set GATEWAY_TRIVY_JAVA_DATABASE",
    ),
    ("unknown flag", "it is another version than the gateway knows: Trivy 0.67 or newer is needed"),
    ("DB schema", "Trivy and its database do not fit each other: update both"),
    ("vulnerability DB initialization", "its database is damaged: remove it, and get it again"),
    ("no space left", "the disk is full: free space in the data directory"),
    ("TOOMANYREQUESTS", "the registry limits the rate of requests: a login raises the limit"),
)


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan of one image, by digest, with the login for its registry."""

    reference: Reference
    platform: str
    seconds: float
    credentials: Credentials | None = field(default=None, repr=False)
    ca_certificates: str | None = None
    insecure: bool = False

    @property
    def digest(self) -> Digest:
        """The digest that is scanned."""
        if self.reference.digest is None:
            raise ValueError("an image is scanned by its digest")
        return self.reference.digest

    @property
    def subject(self) -> str:
        """The image as the scanner is asked about it."""
        return f"{self.reference.repository}@{self.digest}"


def trivy(program: str, scan: Scan, cache: Path, server: str | None) -> Command:
    """https://trivy.dev/docs/latest/references/configuration/cli/trivy_image/"""
    login = ("--username", scan.credentials.username, "--password-stdin") if scan.credentials else ()
    place = (
        ("--server", server) if server else ("--skip-db-update", "--skip-java-db-update", "--cache-backend", "memory")
    )
    words = (
        *(program, "--cache-dir", str(cache), "--quiet", "--timeout", f"{scan.seconds:g}s", "image"),
        *("--image-src", "remote", "--platform", scan.platform, "--scanners", "vuln", "--format", "json"),
        *("--list-all-pkgs=false", "--parallel", str(_MAX_PROCESSORS), "--no-progress", "--offline-scan"),
        *("--skip-version-check", "--disable-telemetry", *place, *login),
        *(("--insecure",) if scan.insecure else ()),
        *("--", scan.subject),
    )
    return _command(words, {}, scan, scan.credentials.password if scan.credentials else "")


def trivy_download(program: str, cache: Path, repository: str, *, java: bool, insecure: bool) -> Command:
    """Return the command that gets the newest database, or the index of Java archives."""
    which = ("--download-java-db-only", "--java-db-repository") if java else ("--download-db-only", "--db-repository")
    words = (
        *(program, "--cache-dir", str(cache), "--quiet", "image", "--no-progress", "--skip-version-check"),
        *("--disable-telemetry", *which, repository, *(("--insecure",) if insecure else ())),
    )
    return Command(words, _QUIET)


def grype(program: str, scan: Scan, cache: Path) -> Command:
    """https://github.com/anchore/grype"""
    offline = {
        "GRYPE_DB_AUTO_UPDATE": "false",
        "GRYPE_DB_VALIDATE_AGE": "false",  # the gate checks it
        "GRYPE_CHECK_FOR_APP_UPDATE": "false",
        "GRYPE_DB_CACHE_DIR": str(cache),
        "GRYPE_REGISTRY_INSECURE_SKIP_TLS_VERIFY": str(scan.insecure).lower(),
    }
    if scan.credentials:
        offline["GRYPE_REGISTRY_AUTH_AUTHORITY"] = scan.reference.repository.domain
        offline["GRYPE_REGISTRY_AUTH_USERNAME"] = scan.credentials.username
        offline["GRYPE_REGISTRY_AUTH_PASSWORD"] = scan.credentials.password
    words = (program, f"registry:{scan.subject}", "--platform", scan.platform, "--output", "json", "--quiet")
    return _command(words, offline, scan, "")


def scout(program: str, scan: Scan) -> Command:
    """https://docs.docker.com/reference/cli/docker/scout/cves/

    It asks Docker's service, and needs a login there: GATEWAY_SCOUT names a script that gives it one.
    """
    words = (program, "cves", "--format", "sarif", "--platform", scan.platform, f"registry://{scan.subject}")
    return _command(words, {}, scan, "")


def _command(words: tuple[str, ...], environment: Mapping[str, str], scan: Scan, stdin: str) -> Command:
    files = {}
    if scan.ca_certificates:
        # Besides the directories of the system: https://pkg.go.dev/crypto/x509#SystemCertPool
        files[_AUTHORITIES] = scan.ca_certificates
        environment = {**environment, "SSL_CERT_FILE": _AUTHORITIES}
    return Command(words, {**_QUIET, **environment}, stdin.encode(), files)


def explain(name: str, ended: Ended, secret: str | None) -> str:
    """Say why a scanner has given no report, and what to do about it."""
    if ended.broken:
        return f"{name} was ended: {ended.broken}"
    lines = [line for line in ended.errors.strip().splitlines() if line.strip()]
    # The last complaint, with the lines that go on with it.
    begins = max((at for at, line in enumerate(lines) if _COMPLAINT.search(line)), default=len(lines) - 1)
    complaint = (
        " ".join(map(str.strip, lines[begins:])) if lines else f"it ended with code {ended.code} and said nothing"
    )
    complaint = _COMPLAINT.sub(r"\1", complaint)
    if secret:
        complaint = complaint.replace(secret, "…")
    meaning = next((meaning for sign, meaning in _MEANINGS if sign in ended.errors), "")
    if not meaning and ended.code > 128:  # noqa: PLR2004 - a signal ended it
        meaning = f"a signal ended it ({ended.code - 128}); for example, it may have needed more memory than it may use"
    shown = safe_line(complaint if len(complaint) <= _SHOWN else f"…{complaint[-_SHOWN:]}")
    return (
        f"{name} has given no report: {meaning}; it says: {shown}"
        if meaning
        else f"{name} has given no report: {shown}"
    )


def is_insecure(domain: str, insecure: str) -> bool:
    """Tell whether GATEWAY_INSECURE_REGISTRIES names the registry."""
    return domain in {one.strip().lower() for one in insecure.split(",")}
