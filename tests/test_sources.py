"""What registries send is understood as they document it, and nothing else gets through.

A sample is the body as it was sent, with its headers, the endpoint's trust and what is expected beside it.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidInput, Unauthenticated
from gateway.events import Notification
from gateway.reference import Domain
from gateway.signatures import prove_hmac
from gateway.sources import SOURCES, Request, Trust

HERE = Path(__file__).parent / "samples"


@dataclass(frozen=True)
class Sample:
    source: str
    name: str
    request: Request
    about: dict[str, Any]

    @property
    def trust(self) -> Trust:
        told = self.about["_trust"]
        host = Domain(told["host"]) if "host" in told else None
        return Trust(told["secret"], host, frozenset(told.get("aliases", ())), told.get("settings", {}))

    def parsed(self) -> Notification:
        return SOURCES[self.source].parse(self.request, self.trust)


def samples(folder: Path, source: str) -> Iterator[Sample]:
    for beside in sorted(folder.glob("*.headers.json")):
        about = json.loads(beside.read_bytes())
        name = beside.name.removesuffix(".headers.json")
        body = next(path for path in folder.glob(f"{name}.*") if path != beside).read_bytes()
        headers = {key.lower(): value for key, value in about["headers"].items()}
        at = datetime.fromisoformat(about.get("_at", "1970-01-01T00:00:00+00:00"))
        keys = {address: (folder / file).read_bytes() for address, file in about.get("_keys", {}).items()}
        request = Request(headers, body, query=about.get("_query", {}), at=at, keys=keys)
        yield Sample(source, name, request, about)


OURS = [sample for source in SOURCES for sample in samples(HERE / source, source)]
SIGNATURE = re.compile(r"(sha\d+=)?[0-9a-f]{40,128}|v1,.+")
ENVELOPED = [one for one in OURS if one.name.startswith("sns_") and one.request.keys]
SIGNED = ENVELOPED + [one for one in OURS if any(map(SIGNATURE.fullmatch, one.request.headers.values()))]
PROVEN = [one for one in OURS if SOURCES[one.source].header and one.trust.settings.get("proof") != "path"]


def named(sample: Sample) -> str:
    return f"{sample.source}-{sample.name}"


@pytest.mark.parametrize("sample", OURS, ids=named)
def test_a_sample_means_what_is_written_beside_it(sample: Sample) -> None:
    SOURCES[sample.source].verify(sample.request, sample.trust)
    notification = sample.parsed()

    told = [str(replace(event.reference, digest=event.digest)) for event in notification.events]
    ignored = [[one.reference, one.reason] for one in notification.ignored]
    expected = sample.about["_expect"]
    assert (told, ignored, notification.event_id) == tuple(expected.values())


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_samples(source: str) -> None:
    assert {source} == {SOURCES[source].name} == {one.source for one in OURS if one.source == source}


@pytest.mark.parametrize("sample", SIGNED, ids=named)
def test_one_tampered_byte_is_noticed(sample: Sample) -> None:
    body = sample.request.body
    for index in {0, 1, len(body) // 3, len(body) // 2, len(body) - 1}:
        tampered = body[:index] + bytes([body[index] ^ 1]) + body[index + 1 :]
        with pytest.raises(Unauthenticated):
            SOURCES[sample.source].verify(replace(sample.request, body=tampered), sample.trust)


@pytest.mark.parametrize("sample", PROVEN, ids=named)
def test_no_proof_or_one_of_another_secret_is_refused(sample: Sample) -> None:
    verify = SOURCES[sample.source].verify
    for request, secret in [
        (sample.request, sample.trust.secret + "x"),
        (sample.request, ""),
        (Request({}, sample.request.body), sample.trust.secret),
        (Request(dict.fromkeys(sample.request.headers, "ü\udcff"), b""), sample.trust.secret),
    ]:
        with pytest.raises(Unauthenticated):
            verify(request, Trust(secret))


def test_a_form_encoded_body_is_verified_as_sent() -> None:
    form = next(one for one in SIGNED if one.name == "package_published_form")
    plain = next(one for one in SIGNED if one.name == "package_published")

    assert form.parsed() == plain.parsed()
    with pytest.raises(Unauthenticated):
        SOURCES["github"].verify(replace(form.request, body=plain.request.body), form.trust)


def test_a_header_alone_changes_nothing() -> None:
    # But for CloudEvents in binary mode and unwrapped messages, of which headers are a part.
    parts = {"ce-type", "x-goog-pubsub-message-id"}
    for sample in [one for one in OURS if parts.isdisjoint(one.request.headers)]:
        stripped = replace(sample, request=Request({}, sample.request.body))
        assert sample.parsed() == stripped.parsed()


BROKEN = {
    "empty": b"",
    "no JSON": b"invalid json",
    "byte order mark": b'\xef\xbb\xbf{"push_data":{"tag":"x"},"repository":{"repo_name":"a/b"}}',
    "text": b'"push"',
    "number": b"1",
    "null": b"null",
    "array of null": b'[null, 1, "x"]',
    "depth of arrays": b"[" * 100_000,
    "depth of objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"a":"\xff"}',
    "half a surrogate": b'{"a":"\\ud800"}',
    "form of nothing": b"payload=",
    "form of no JSON": b"payload=%ff%00+",
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_body_is_invalid_input(source: str, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        SOURCES[source].parse(Request({}, body), Trust("s"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../b", "Acme//web", "/etc", "", "a b", "a\0b", 5, [], {}])
def test_a_push_of_no_possible_name_is_invalid_input(name: object) -> None:
    hub = {"push_data": {"tag": "latest"}, "repository": {"repo_name": name}}
    address = f"ghcr.io/{name}:1" if isinstance(name, str) else name
    version = {"package_url": address, "container_metadata": {"tag": {"name": "1"}}}
    ecr = {"action-type": "PUSH", "result": "SUCCESS", "image-tag": "1", "repository-name": name}
    target = {"repository": name, "tag": "1", "url": "http://registry:5000/v2/"}
    gitea = {"type": "container", "owner": {"login": name}, "name": "x", "version": "1", "html_url": "http://r.io"}
    jfrog = {"repo_key": "docker", "image_name": name, "tag": "1"}
    component = {"format": "docker", "name": name, "version": "1"}
    zot = {"name": name or "/", "reference": "1"}
    harbor = {"resources": [{"resource_url": f"r.io/{name}:1" if isinstance(name, str) else name, "tag": "1"}]}
    azure = {"repository": name, "tag": "1"}
    google = f"gcr.io/{name}:1" if isinstance(name, str) else name
    aliyun = {"region": "x", "repo_full_name": name}
    for source, body in {
        "dockerhub": hub,
        "github": {"package": {"name": "", "package_version": version}},
        "ecr": {"detail-type": "ECR Image Action", "account": "1", "region": "x", "detail": ecr},
        "distribution": {"events": [{"action": "push", "target": target}]},
        "harbor": {"type": "PUSH_ARTIFACT", "event_data": harbor},
        "quay": {"docker_url": "", "repository": name, "updated_tags": ["1"]},
        "acr": {"action": "push", "target": azure, "request": {"host": "r.io"}},
        "artifactregistry": {"action": "INSERT", "tag": google or "gcr.io/:1"},
        "gitlab": {"events": [{"action": "push", "target": target}]},
        "gitea": {"action": "created", "package": gitea},
        "jfrog": {"domain": "docker", "event_type": "pushed", "data": jfrog, "jpd_origin": "http://r.io"},
        "nexus": {"action": "CREATED", "component": component},
        "zot": {"specversion": "1.0", "type": "zotregistry.image.updated", "data": zot},
        "aliyun": {"push_data": {"tag": "1"}, "repository": aliyun},
        "generic": {"image": name, "tag": "1"},
    }.items():
        with pytest.raises(InvalidInput):
            SOURCES[source].parse(Request({}, json.dumps(body).encode()), Trust("s", Domain("r.io")))


@pytest.mark.parametrize("bad", [None, 1, {"target": []}, {"action": "push", "target": {"repository": "../x"}}])
def test_one_malformed_event_refuses_its_whole_notification(bad: object) -> None:
    good = {"action": "push", "target": {"repository": "a", "tag": "1", "url": "http://r:5000/v2/a"}}
    body = json.dumps({"events": [good, bad, good]}).encode()

    with pytest.raises(InvalidInput):
        SOURCES["distribution"].parse(Request({}, body), Trust("s"))


WORDS = sorted(set(re.findall(r'"([\w-]+)": ?', " ".join(one.request.body.decode() for one in OURS))))
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=8)
)


@settings(deadline=None)
@given(st.sampled_from(sorted(SOURCES)), anything.map(json.dumps).map(str.encode) | st.binary())
def test_any_body_is_a_notification_or_invalid_input(source: str, body: bytes) -> None:
    try:
        SOURCES[source].parse(Request({}, body), Trust("s", Domain("ghcr.io")))
    except InvalidInput:
        return


def altered(value: Any, data: st.DataObject) -> Any:
    """Replace one part of a payload, anywhere in it, by something else."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 5)) == 0:
        return data.draw(anything)
    key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    changed = value.copy()
    changed[key] = altered(value[key], data)
    return changed


@settings(deadline=None)
@given(st.sampled_from([one for one in OURS if not one.name.endswith("form")]), st.data())
def test_a_sample_with_any_part_exchanged_is_a_notification_or_invalid_input(
    sample: Sample, data: st.DataObject
) -> None:
    body = json.dumps(altered(json.loads(sample.request.body), data)).encode()
    try:
        SOURCES[sample.source].parse(Request({}, body), sample.trust)
    except InvalidInput:
        return


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("dockerhub", {"image": "/image"}),
        ("generic", {"image": "/a~2"}),
        ("generic", {"image": "/image", "tag": "tag"}),
        ("generic", {"algorithm": "md5"}),
        ("generic", {"encoding": "base32"}),
        ("generic", {"proof": "none"}),
        ("generic", {"when": "/action"}),
        ("gitlab", {"image": "registry.example.com/{branch}"}),
        ("jfrog", {"path": "{host}/{image}"}),
        ("nexus", {"path": "{}"}),
    ],
)
def test_a_setting_that_can_mean_nothing_is_refused(source: str, settings: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        SOURCES[source].check_settings(settings)


def test_the_settings_of_the_samples_are_accepted() -> None:
    for sample in OURS:
        SOURCES[sample.source].check_settings(sample.trust.settings)


def test_an_old_signed_hook_is_refused() -> None:
    signed = next(one for one in OURS if one.name == "pipeline_signed")
    late = replace(signed.request, at=signed.request.at + timedelta(hours=1))
    with pytest.raises(Unauthenticated, match="five minutes"):
        SOURCES["gitlab"].verify(late, signed.trust)


def test_who_was_given_a_signing_token_is_not_believed_for_showing_it() -> None:
    key = "whsec_c2VjcmV0"
    with pytest.raises(Unauthenticated):
        SOURCES["gitlab"].verify(Request({"x-gitlab-token": key}, b"{}"), Trust(key))


def test_an_id_that_is_no_text_is_a_key_all_the_same() -> None:
    headers = {"ce-type": "zotregistry.image.updated", "ce-id": "\udcff"}
    body = b'{"name": "acme/web", "reference": "1"}'
    notification = SOURCES["zot"].parse(Request(headers, body), Trust("s", Domain("zot.example.com")))
    assert (notification.event_id or "").startswith("sha256:")


# -- a bigger corpus, where SAMPLES_DIR names one --


@dataclass(frozen=True)
class Folder:
    """Whose samples these are, and what their endpoint would know that they do not tell."""

    source: str
    secret: str = ""
    #: the registry's host, and what stands for it in the expectations
    host: str | None = None
    placeholder: str = "<nowhere>"
    #: the endpoint's settings, by sample; "" is for the rest
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: files of public keys, by their address
    keys: Mapping[str, str] = field(default_factory=dict)
    at: datetime | None = None


SNS = "https://sns.us-west-2.amazonaws.com"
CORPUS = {
    "dockerhub": Folder("dockerhub"),
    "ghcr": Folder("github"),
    "ecr": Folder("ecr"),
    "sns": Folder(
        "ecr",
        settings={"": {"topic": "arn:aws:sns:us-west-2:123456789012:MyTopic"}},
        keys={f"{SNS}/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem": "_signing-cert.pem"},
    ),
    "distribution": Folder("distribution"),
    "harbor": Folder("harbor"),
    "quay": Folder("quay"),
    "acr": Folder("acr"),
    "acr-eventgrid": Folder("acr", secret="in the query"),
    "gcp": Folder(
        "artifactregistry",
        settings={
            "": {
                "email": "gcr-publisher@my-project.iam.gserviceaccount.com",
                "audience": "https://gateway.example.com/hooks/gar",
            }
        },
        keys={"https://www.googleapis.com/oauth2/v3/certs": "_jwks.json"},
        at=datetime(2026, 11, 23, 16, tzinfo=UTC),
    ),
    "gitlab": Folder("gitlab"),
    "gitea": Folder("gitea"),
    "jfrog": Folder("jfrog"),
    "nexus": Folder("nexus", host="nexus.example.com", placeholder="<nexus docker connector for app1>"),
    "zot": Folder("zot", host="zot.example.com", placeholder="<configured zot host>"),
    "aliyun-acr": Folder("aliyun"),
    "generic": Folder(
        "generic",
        secret="test_Secret1",
        settings={
            "doco_cd_oci": {"image": "/artifact", "digest": "/digest"},
            "flux_generic_gar_body": {"image": "/tag", "digest": "/digest", "proof": "path"},
            "cdevents_artifact_published": {"image": "/subject/id", "proof": "path"},
        },
    ),
}


def corpus(name: str) -> list[Sample]:
    root, folder = os.environ.get("SAMPLES_DIR"), CORPUS.get(name, Folder(""))
    if not root:
        return []
    keys = {address: (Path(root) / name / file).read_bytes() for address, file in folder.keys.items()}
    return [replace(one, request=asked(one, folder, keys)) for one in samples(Path(root) / name, folder.source)]


def asked(sample: Sample, folder: Folder, keys: Mapping[str, bytes]) -> Request:
    """The request with what stood around it: an address with the secret, the clock and the keys of its time."""
    signed_at = re.search(rb'"Timestamp": "([^"]+)"', sample.request.body)
    at = datetime.fromisoformat(signed_at[1].decode()) if signed_at else folder.at or sample.request.at
    query = {"secret": folder.secret} if folder.secret else {}
    return replace(sample.request, at=at, keys=keys, query=query)


def secret_of(sample: Sample) -> str:
    """The secret is told beside what was signed or encoded, and stands in the headers of the rest."""
    headers = sample.request.headers
    told = re.search(r"""secret (['"])(.*)\1""", sample.about["_meta"].get("auth") or "")
    if told:
        return str(told[2])
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        return base64.b64decode(credentials).decode().partition(":")[2]
    bearer = credentials if scheme == "Bearer" else headers.get("authorization", "")
    sent = (headers.get(name) for name in ("x-api-key", "x-webhook-secret", "x-gitlab-token"))
    return next(filter(None, sent), bearer)


def settings_of(sample: Sample, folder: Folder) -> Mapping[str, str]:
    return folder.settings.get(sample.name) or folder.settings.get("", {})


def told_by(sample: Sample, folder: Folder) -> list[tuple[str, str | None]]:
    source, host = SOURCES[sample.source], Domain(folder.host) if folder.host else None
    trust = Trust(secret_of(sample) or folder.secret, host, settings=settings_of(sample, folder))
    try:
        source.verify(sample.request, trust)
        events = source.parse(sample.request, trust).events
    except (InvalidInput, Unauthenticated):
        return []
    return [(str(event.reference), event.digest) for event in events]


def expected_of(sample: Sample, folder: Folder) -> list[tuple[str, str | None]]:
    # Told is a digest only where it is one: documentation abridges them.
    meta = sample.about["_meta"]
    refs = meta.get("expect_refs") or []
    whole = re.compile(r"sha256:[0-9a-f]{64}")
    digests = [one.get("digest") or "" for one in refs]
    # No client can write capitals, though documentation does.
    names = [one["ref"].replace(folder.placeholder, folder.host or "") for one in refs]
    names = [path.lower() + colon + tag for path, colon, tag in (name.rpartition(":") for name in names)]
    return [(name, d if whole.fullmatch(d) else None) for name, d in zip(names, digests, strict=True)]


@pytest.mark.parametrize("folder", CORPUS)
def test_the_corpus_deploys_what_it_says(folder: str) -> None:
    for sample in corpus(folder):
        meta, told = sample.about["_meta"], told_by(sample, CORPUS[folder])
        if meta["expect_deploy"]:
            assert told == expected_of(sample, CORPUS[folder]), sample.name
        elif meta["expect_deploy"] is not None:  # nobody can tell a chart
            assert told == [], sample.name


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_malformed_in_the_corpus_deploys_nothing(source: str) -> None:
    for sample in corpus("malformed"):
        try:
            told = SOURCES[source].parse(sample.request, Trust("s")).events
        except InvalidInput:
            continue
        assert told == (), sample.name


def test_the_signature_vector_of_the_corpus_holds() -> None:
    for sample in corpus("ghcr"):
        if sample.about["_meta"]["event"] == "vector":
            sent = sample.request.headers["x-hub-signature-256"]
            prove_hmac(sent, sample.about["_meta"]["note"][8:], sample.request.body, prefix="sha256=")
