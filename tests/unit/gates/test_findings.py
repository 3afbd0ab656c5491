"""What is looked for: the image's own digest, and with the rule's leave that of the manifest for the platform."""

import dataclasses
import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.gates import _findings
from gateway.gates.gate import Sources
from gateway.gates.signature import Rule, decide, gather
from gateway.model.configuration import Configuration, RuntimeKind
from gateway.model.errors import Code, Failed, Postponed, RolloutError
from gateway.model.gates import Candidate, Decision, GateSetting, Verdict
from gateway.model.reference import Digest, Reference
from gateway.registry.attached import Attached, Form, Stored, Wanted
from gateway.store import gate_verdicts
from tests.support.candidates import a_candidate
from tests.support.signing import SigningKey, b64, simple_payload

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
INDEX, OWN, OTHER = (Digest("sha256:" + 32 * byte) for byte in ("ab", "cd", "ef"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.generate(tmp_path_factory.mktemp("keys"))


def entry(digest: str, os: str = "linux", architecture: str = "amd64", **more: Any) -> dict[str, Any]:
    return {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": 2,
        "platform": {"os": os, "architecture": architecture},
    } | more


def index_of(*entries: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries} | more).encode()


@pytest.fixture(autouse=True)
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The evidence of the last answer."""
    found: dict[str, Any] = {}

    async def select_evidence(*_arguments: object) -> dict[str, Any]:
        return found

    monkeypatch.setattr(_findings, "statement", nullcontext)
    monkeypatch.setattr(gate_verdicts, "select_evidence", select_evidence)
    return found


class Registry:
    """Has signatures of some digests, and an index, or fails to answer with it."""

    def __init__(self, key: SigningKey, *signed: Digest, index: bytes | RolloutError | None = None) -> None:
        self._key, self._signed = key, signed
        self._index = index or index_of(entry(OWN), entry(OTHER, "linux", "arm64"), entry(OTHER, "unknown", "unknown"))

    async def index(self, _reference: Reference, _login: object) -> bytes | None:
        if isinstance(self._index, RolloutError):
            raise self._index
        return self._index

    async def attached(self, reference: Reference, _login: object, _wanted: Wanted) -> Attached:
        if reference.digest not in self._signed:
            return Attached()
        content = simple_payload(reference.digest)
        proof = {"dev.cosignproject.cosign/signature": b64(self._key.sign(content))}
        return Attached((Stored(Form.SIMPLE, content, proof, f"tag of {reference.digest}"),))


async def judged(registry: Registry, key: SigningKey, candidate: Candidate | None = None, **rule: Any) -> Decision:
    given = Rule.model_validate({"keys": [key.public], **rule})
    settings = SimpleNamespace(trusted_root=cast("Path | None", None))
    sources = cast("Sources", SimpleNamespace(registry=registry, settings=settings, pool=None))
    asked = dataclasses.replace(candidate or a_candidate(INDEX), first_asked_at=NOW - timedelta(hours=1))
    return decide(given, await gather(sources, cast("GateSetting", None), given, asked), asked, NOW)


async def test_the_index_counts_and_the_manifest_of_the_platform_only_if_the_rule_says_so(key: SigningKey) -> None:
    assert (await judged(Registry(key, INDEX), key)).verdict is Verdict.PASSED
    assert (await judged(Registry(key, INDEX), key, platformManifest=True)).verdict is Verdict.PASSED
    assert (await judged(Registry(key, OWN), key)).verdict is Verdict.REFUSED
    assert (await judged(Registry(key, OWN), key, platformManifest=True)).verdict is Verdict.PASSED


OWN_ENTRY = entry(OWN)
DOUBTFUL = {
    "two for the platform": index_of(OWN_ENTRY, entry(OTHER)),
    "two variants": index_of(OWN_ENTRY, entry(OTHER) | {"platform": {**OWN_ENTRY["platform"], "variant": "v3"}}),
    # The engine passes over it, and runs the other one.
    "a variant that others lack": index_of(
        OWN_ENTRY | {"platform": {**OWN_ENTRY["platform"], "variant": "v2"}}, entry(OTHER, "linux", "386")
    ),
    "none for the platform": index_of(entry(OWN, "linux", "arm64")),
    # What the engine takes for linux/amd64 too.
    "another name of the architecture": index_of(OWN_ENTRY, entry(OTHER, "linux", "x86_64")),
    "a name in upper case": index_of(OWN_ENTRY, entry(OTHER, "Linux")),
    "no platform": index_of(OWN_ENTRY, {"mediaType": MANIFEST, "digest": OTHER, "size": 2}),
    "a member in upper case": index_of(OWN_ENTRY, entry(OTHER, "unknown", "unknown", Platform=OWN_ENTRY["platform"])),
    "a list in upper case": index_of(OWN_ENTRY, Manifests=[entry(OTHER)]),
    "a member twice": index_of(OWN_ENTRY).replace(b'"digest"', b'"digest": "x", "digest"'),
    "no list": b'{"manifests": {}}',
    "no JSON": b"{",
}


@pytest.mark.parametrize("index", DOUBTFUL.values(), ids=DOUBTFUL)
async def test_an_index_that_an_engine_could_read_in_another_way_is_not_read(key: SigningKey, index: bytes) -> None:
    assert (await judged(Registry(key, OWN, index=index), key, platformManifest=True)).verdict is Verdict.REFUSED
    assert (await judged(Registry(key, INDEX, index=index), key, platformManifest=True)).verdict is Verdict.PASSED


async def test_on_a_swarm_the_manifest_counts_only_for_what_is_a_container(key: SigningKey) -> None:
    candidate = dataclasses.replace(a_candidate(INDEX), on_swarm=True)
    container = dataclasses.replace(candidate.application, configuration=Configuration(runtime=RuntimeKind.CONTAINER))
    for asked, verdict in (
        (candidate, Verdict.REFUSED),
        (dataclasses.replace(candidate, application=container), Verdict.PASSED),
    ):
        assert (await judged(Registry(key, OWN), key, asked, platformManifest=True)).verdict is verdict


async def test_an_index_that_cannot_be_read_is_unknown(key: SigningKey) -> None:
    for error in (Postponed(Code.RATE_LIMITED, "slow down"), Failed(Code.DENIED, "no")):
        waits = await judged(Registry(key, index=error), key, platformManifest=True)
        assert (waits.verdict, waits.code) == (Verdict.UNKNOWN, error.reason.code)
        passes = await judged(Registry(key, INDEX, index=error), key, platformManifest=True)
        assert passes.verdict is Verdict.PASSED


async def test_the_wait_for_a_late_signature_begins_when_the_registry_answers_again(
    key: SigningKey, before: dict[str, Any]
) -> None:
    """The gate was first asked an hour ago. While a registry does not answer, nobody can store a signature there."""

    async def asked() -> Decision:
        decision = await judged(Registry(key), key)
        before.clear()
        before.update(decision.evidence)
        return decision

    before.update(faults=["it does not answer"], waitsSince=(NOW - timedelta(hours=1)).isoformat())
    waits = await asked()
    assert (waits.verdict, waits.code, waits.ask_again_at) == (
        Verdict.UNKNOWN,
        Code.UNSIGNED,
        NOW + timedelta(seconds=3),
    )
    before["waitsSince"] = (NOW - timedelta(seconds=59)).isoformat()
    assert (await asked()).verdict is Verdict.UNKNOWN
    before["waitsSince"] = (NOW - timedelta(seconds=60)).isoformat()
    assert (await asked()).verdict is Verdict.REFUSED
