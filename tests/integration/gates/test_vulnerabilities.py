"""Images in a real registry, judged by the real Trivy; and what becomes of the verdict when the scanner fails."""

import asyncio
import json
import os
import platform
import stat
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.demo.registry import PrivateRegistry
from gateway.config import Settings
from gateway.gates import vulnerabilities
from gateway.gates.gate import Sources
from gateway.gates.scan import Scans
from gateway.gates.vulnerabilities import Rule
from gateway.model.errors import Code, Postponed
from gateway.model.gates import Decision, GateSetting, Level, Verdict
from gateway.model.reference import Digest
from gateway.model.registries import Credentials, Login
from gateway.registry.client import RegistryClient, connect
from gateway.store.database import Pool
from tests.support.api_client import VAULT
from tests.support.candidates import a_candidate
from tests.support.scanned_images import alpine, push_files, push_index
from tests.support.trivy_database import Advisory, write_database

ROOT = Path(__file__).parents[3]
TRIVY = ROOT / "tests/clients/.venv/bin/trivy"
real_trivy = pytest.mark.skipif(
    not TRIVY.exists() and platform.machine() != "x86_64", reason="no Trivy for this machine"
)

PLANTED = Advisory("CVE-2026-1", "openssl", fixed="3.1.5-r0")
UNFIXED = Advisory("CVE-2026-2", "musl", severity="HIGH")


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with connect() as one:
        yield one


@dataclass
class Scanned:
    """A gate on images of one repository, with a scanner and its database in a directory of their own."""

    pool: Pool
    client: RegistryClient
    registry: str
    path: str
    place: Path
    scanner: str = str(TRIVY)
    scans: Scans = field(default_factory=Scans)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.place / "trivy"

    async def push(self, tag: str = "latest", files: Mapping[str, bytes] | None = None, **packages: str) -> Digest:
        return await push_files(self.registry, self.path, {**alpine(**packages), **(files or {})}, tag)

    async def push_one(self) -> Digest:
        """Push an image like no other."""
        return await self.push(files={"own": os.urandom(16)})

    async def push_index(self, *images: tuple[str, Digest], tag: str = "index") -> Digest:
        """Push an index of these images, each with the architecture, and variant, that it says it is for."""
        return await push_index(self.registry, self.path, images, tag)

    def script(self, text: str) -> Path:
        """Write a program, and let the gate use it."""
        program = self.place / "scanner"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.scanner = str(program)
        return program

    async def ask(
        self,
        digest: Digest,
        *,
        serving: Digest | None = None,
        login: Login | None = None,
        nodes: Collection[str] = (),
        **rule: Any,
    ) -> Decision:
        """Ask the gate as a rollout does. Raises Postponed."""
        given = {"GATEWAY_DATA_DIR": str(self.place), "GATEWAY_TRIVY": self.scanner, "HOME": "/", **self.settings}
        sources = Sources(self.pool, VAULT, self.client, Settings.from_environ(given), self.scans)
        candidate = a_candidate(digest, image=f"{self.registry}/{self.path}:latest", serving=serving)
        candidate = replace(candidate, login=login or candidate.login, node_platforms=frozenset(nodes))
        now = datetime.now(UTC)
        setting = GateSetting("g", Level.APPLICATION, "app", "vulnerabilities", "v", rule, True, False, now)
        parsed = Rule.model_validate(rule)
        facts = await vulnerabilities.gather(sources, setting, parsed, candidate)
        return vulnerabilities.decide(parsed, facts, candidate, now)


@pytest.fixture
def scanned(
    web_pool: Pool, client: RegistryClient, registry: PrivateRegistry, request: pytest.FixtureRequest, tmp_path: Path
) -> Scanned:
    return Scanned(web_pool, client, registry.address, f"scanned/{abs(hash(request.node.nodeid)):x}", tmp_path)


@real_trivy
async def test_a_clean_image_passes_a_planted_flaw_is_refused_and_an_equal_one_is_no_worse(scanned: Scanned) -> None:
    write_database(scanned.cache, PLANTED, UNFIXED)
    clean = await scanned.push("clean", openssl="3.1.5-r0")
    flawed = await scanned.push("flawed", openssl="3.1.4-r0")
    equal = await scanned.push("equal", openssl="3.1.3-r0", zlib="1.3-r0")
    worse = await scanned.push("worse", openssl="3.1.4-r0", musl="1.2.4-r2")

    passed = await scanned.ask(clean)
    assert (passed.verdict, passed.evidence["counts"]["critical"]) == (Verdict.PASSED, 0)
    assert passed.true_until is not None
    refused = await scanned.ask(flawed)
    assert (refused.verdict, refused.code) == (Verdict.REFUSED, Code.VULNERABLE)
    assert "CVE-2026-1 in openssl 3.1.4-r0, fixed in 3.1.5-r0" in refused.message
    assert (await scanned.ask(flawed, serving=clean, noWorseThanRunning=True)).verdict is Verdict.REFUSED
    assert (await scanned.ask(equal, serving=flawed, noWorseThanRunning=True)).verdict is Verdict.PASSED
    refused = await scanned.ask(worse, serving=flawed, noWorseThanRunning=True, block="high")
    assert refused.message.startswith("trivy found 1 of severity high or worse that what runs now has not: CVE-2026-2")
    assert (await scanned.ask(worse, serving=flawed, noWorseThanRunning=True, block="high", fixable=True)).verdict is (
        Verdict.PASSED
    )


@pytest.mark.long
@real_trivy
async def test_a_flaw_that_was_published_since_is_found_by_the_next_database(scanned: Scanned) -> None:
    digest = await scanned.push(openssl="3.1.4-r0")
    write_database(scanned.cache, updated=datetime.now(UTC) - timedelta(hours=1))
    assert (await scanned.ask(digest)).verdict is Verdict.PASSED
    write_database(scanned.cache, PLANTED)
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED


@pytest.mark.long
@real_trivy
async def test_of_an_index_all_is_scanned_that_the_engine_may_run(scanned: Scanned) -> None:
    write_database(scanned.cache, PLANTED)
    clean = await scanned.push("clean", openssl="3.1.5-r0")
    flawed = await scanned.push("flawed", openssl="3.1.4-r0")
    other = await scanned.push("other", openssl="3.1.4-r0", zlib="1.3-r0")
    plain = await scanned.push_index(("arm64", flawed), ("amd64", clean))
    passed = await scanned.ask(plain)
    assert (passed.verdict, passed.evidence["scanned"]) == (Verdict.PASSED, [clean])
    for images in (
        [("amd64/v2", clean), ("amd64", flawed)],  # Trivy takes the first one, the engine the second
        [("x86_64", flawed), ("amd64", clean)],  # the other way round
        [("amd64/v2", clean), ("386", flawed)],
    ):
        refused = await scanned.ask(await scanned.push_index(*images))
        assert (refused.verdict, len(refused.evidence["scanned"])) == (Verdict.REFUSED, 2), images
    both = await scanned.push_index(("amd64", flawed), ("arm64", clean))
    assert (await scanned.ask(other, serving=both, noWorseThanRunning=True)).verdict is Verdict.PASSED
    doubtful = await scanned.push_index(("amd64", flawed), ("x86_64", clean))
    assert (await scanned.ask(other, serving=doubtful, noWorseThanRunning=True)).verdict is Verdict.REFUSED
    nested = await scanned.push_index(("amd64/v2", clean), ("", plain))
    with pytest.raises(Postponed, match="nobody can tell which image would run"):
        await scanned.ask(nested)


@pytest.mark.long
@real_trivy
async def test_on_a_swarm_what_any_of_its_nodes_may_run_is_scanned(scanned: Scanned) -> None:
    write_database(scanned.cache, PLANTED)
    clean = await scanned.push("clean", openssl="3.1.5-r0")
    index = await scanned.push_index(("amd64", clean), ("arm64", await scanned.push("flawed", openssl="3.1.4-r0")))
    assert (await scanned.ask(index)).verdict is Verdict.PASSED
    assert (await scanned.ask(index, nodes={"linux/amd64", "linux/s390x"})).verdict is Verdict.PASSED
    assert (await scanned.ask(index, nodes={"linux/amd64", "linux/arm64"})).verdict is Verdict.REFUSED


@pytest.mark.long
@real_trivy
async def test_a_report_is_made_once_and_kept_whole(scanned: Scanned) -> None:
    write_database(scanned.cache, PLANTED)
    digest = await scanned.push(openssl="3.1.4-r0")
    await scanned.ask(digest)
    scanned.script("echo must not run >&2; exit 1")
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED
    assert await scanned.pool.fetchval("SELECT count(*) FROM scan_reports WHERE digest = $1", digest) == 1


@pytest.mark.long
@real_trivy
async def test_without_a_usable_database_the_verdict_is_unknown_until_there_is_one(scanned: Scanned) -> None:
    digest = await scanned.push(openssl="3.1.4-r0")
    with pytest.raises(Postponed, match=r"no database in .*; set GATEWAY_TRIVY_DATABASE, or run: trivy image --down"):
        await scanned.ask(digest)
    write_database(scanned.cache, PLANTED, updated=datetime.now(UTC) - timedelta(days=8))
    with pytest.raises(Postponed, match="older than the rule's maxDatabaseAge"):
        await scanned.ask(digest)
    write_database(scanned.cache, PLANTED, version=3)
    with pytest.raises(Postponed, match="Trivy and its database do not fit each other"):
        await scanned.ask(digest)
    for damaged in (b"", os.urandom(20_000)):
        write_database(scanned.cache, PLANTED)
        (scanned.cache / "db" / "trivy.db").write_bytes(damaged)
        with pytest.raises(Postponed, match="trivy has given no report: "):
            await scanned.ask(digest)
    (scanned.cache / "db" / "metadata.json").write_text("{")
    with pytest.raises(Postponed, match=r"metadata\.json is not JSON"):
        await scanned.ask(digest)
    write_database(scanned.cache, PLANTED)
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED


REPORT = """cat <<END
{"SchemaVersion": 2, "Trivy": {"Version": "1"}, "ArtifactName": "SUBJECT", "Results": []}
END"""


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -9 $$", "a signal ended it"),
        ("sleep 1000", "did not end within 5 s"),
        ("echo nonsense", "the report is not JSON"),
        ("echo '[[[['", "the report is not JSON"),
        ("exit 0", "the report is not JSON"),
        (REPORT.replace("SUBJECT", "another/image"), "not about"),
        pytest.param("yes", "larger than 32 MB", marks=pytest.mark.long),
        ("echo 'FATAL Fatal error unknown flag: --offline-scan' >&2; exit 1", "Trivy 0.67 or newer is needed"),
        ("echo 'write /x: no space left on device' >&2; exit 1", "the disk is full"),
        (r"printf '\033[2JFATAL\tError\t<b>evil</b>\033]0;x\007\n' >&2; exit 1", r"<b>evil</b>\\x1b\]0;x\\x07"),
        (r"""echo '{"runs":[{"tool":{"driver":{"name":"docker scout"}},"results":[]}]}'""", "of another scanner"),
    ],
)
async def test_a_scanner_that_fails_leaves_the_verdict_unknown(scanned: Scanned, script: str, why: str) -> None:
    write_database(scanned.cache)
    digest = await scanned.push_one()
    scanned.script(script)
    with pytest.raises(Postponed, match=why) as raised:
        await scanned.ask(digest, timeout="5s")
    assert raised.value.reason.code is Code.GATE_UNANSWERED
    assert "\x1b" not in str(raised.value)
    scanned.script(REPORT.replace("SUBJECT", f"{scanned.registry}/{scanned.path}@{digest}"))
    assert (await scanned.ask(digest)).verdict is Verdict.PASSED


async def test_a_missing_scanner_is_named_with_its_setting_even_without_a_database(scanned: Scanned) -> None:
    scanned.scanner = "/nonexistent/trivy"
    with pytest.raises(Postponed, match=r"no program /nonexistent/trivy .*set GATEWAY_TRIVY to its path"):
        await scanned.ask(await scanned.push_one())


async def test_a_scanner_gets_the_login_of_the_registry_where_nobody_else_sees_it(scanned: Scanned) -> None:
    write_database(scanned.cache)
    seen = scanned.place / "seen"
    shows = r"cat; echo; tr '\0' '\n' </proc/$$/environ; tr '\0' ' ' </proc/$$/cmdline; find ."
    scanned.script(f"({shows}) >{seen}; exit 1")
    digest, password = await scanned.push_one(), "pass,word 'x\" ü"
    with pytest.raises(Postponed):
        await scanned.ask(digest, login=Login(Credentials("robot", password)))
    typed, *others = seen.read_text().splitlines()
    assert typed == password
    assert password not in "\n".join(others)
    assert "--username robot --password-stdin" in "\n".join(others)
    assert "GATEWAY_" not in "\n".join(others)


@pytest.mark.parametrize("scanner", ["grype", "scout"])
async def test_other_scanners_are_asked_in_their_own_words(scanned: Scanned, scanner: str) -> None:
    digest = await scanned.push_one()
    subject = f"{scanned.registry}/{scanned.path}@{digest}"
    found = {"vulnerability": {"id": "CVE-1", "severity": "Critical"}, "artifact": {"name": "p", "version": "1"}}
    rule = {"id": "CVE-1", "properties": {"cvssV3_severity": "CRITICAL", "purls": ["pkg:apk/alpine/p@1"]}}
    driver = {"name": "docker scout", "rules": [rule]}
    documents: dict[str, dict[str, Any]] = {
        "grype": {"matches": [found], "source": {"target": {"userInput": subject}}, "descriptor": {"name": "grype"}},
        "scout": {"runs": [{"tool": {"driver": driver}, "results": [{"ruleId": "CVE-1"}]}]},
    }
    seen = scanned.place / "seen"
    program = scanned.script(f"echo \"$@\" >{seen}; cat <<'END'\n{json.dumps(documents[scanner])}\nEND")
    scanned.settings[f"GATEWAY_{scanner.upper()}"] = str(program)
    decision = await scanned.ask(digest, scanner=scanner)
    assert (decision.verdict, decision.evidence["scanner"]) == (Verdict.REFUSED, scanner)
    assert (
        seen.read_text().split()
        == {
            "grype": [f"registry:{subject}", "--platform", "linux/amd64", "--output", "json", "--quiet"],
            "scout": ["cves", "--format", "sarif", "--platform", "linux/amd64", f"registry://{subject}"],
        }[scanner]
    )


async def test_scans_of_one_image_are_one_and_of_many_two_at_once(scanned: Scanned) -> None:
    write_database(scanned.cache)
    count = scanned.place / "count"
    scanned.script(f"echo x >>{count}; ls ../ | wc -l >>{count}.wide; sleep 0.3; exit 1")
    one, *others = [await scanned.push_one() for _ in range(6)]
    await asyncio.gather(*(scanned.ask(one) for _ in range(5)), return_exceptions=True)
    assert count.read_text() == "x\n"
    await asyncio.gather(*(scanned.ask(digest) for digest in others), return_exceptions=True)
    assert len(count.read_text()) == 12
    assert max(map(int, (scanned.place / "count.wide").read_text().split())) == 2
