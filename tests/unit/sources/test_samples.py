"""Each source parses the deliveries that its registry documents or sends, and rejects everything else."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.model.reference import Domain
from gateway.sources import SOURCES, Request, Trust
from tests.support.each_case import each_case
from tests.support.samples import OURS, Sample, named

SIGNATURE = re.compile(r"(sha\d+=)?[0-9a-f]{40,128}|v1,.+")
ENVELOPED = [one for one in OURS if one.name.startswith("sns_") and one.request.keys]


def is_signed(sample: Sample) -> bool:
    return any(map(SIGNATURE.fullmatch, sample.request.headers.values()))


SIGNED = ENVELOPED + [one for one in OURS if is_signed(one)]
PROVEN = [one for one in OURS if SOURCES[one.source].header and one.trust.settings.get("proof") != "path"]


@each_case("sample", OURS, ids=named)
def test_a_sample_is_parsed_as_expected(sample: Sample) -> None:
    SOURCES[sample.source].verify(sample.request, sample.trust)
    notification = sample.parsed()

    assert sample.about["_expect"] == {
        "refs": [str(replace(event.reference, digest=event.digest)) for event in notification.events],
        "ignored": [[one.reference, one.reason] for one in notification.ignored],
        "event_id": notification.event_id,
    }


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_samples(source: str) -> None:
    assert {source} == {SOURCES[source].name} == {one.source for one in OURS if one.source == source}


@each_case("sample", SIGNED, ids=named)
def test_one_tampered_byte_is_detected(sample: Sample) -> None:
    body = sample.request.body
    for index in {0, 1, len(body) // 3, len(body) // 2, len(body) - 1}:
        tampered = body[:index] + bytes([body[index] ^ 1]) + body[index + 1 :]
        with pytest.raises(Unauthenticated):
            SOURCES[sample.source].verify(replace(sample.request, body=tampered), sample.trust)


@each_case("sample", PROVEN, ids=named)
def test_a_missing_proof_and_one_of_another_secret_are_rejected(sample: Sample) -> None:
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
@each_case("body", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_body_is_invalid_input(source: str, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        SOURCES[source].parse(Request({}, body), Trust("s"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../b", "Acme//web", "/etc", "", "a b", "a\0b", 5, [], {}])
def test_a_push_of_an_invalid_name_is_invalid_input(name: object) -> None:
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
def test_one_malformed_event_rejects_the_whole_delivery(bad: object) -> None:
    good = {"action": "push", "target": {"repository": "a", "tag": "1", "url": "http://r:5000/v2/a"}}
    body = json.dumps({"events": [good, bad, good]}).encode()

    with pytest.raises(InvalidInput):
        SOURCES["distribution"].parse(Request({}, body), Trust("s"))


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
def test_an_invalid_setting_is_rejected(source: str, settings: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        SOURCES[source].check_settings(settings)


@pytest.mark.parametrize(
    ("source", "settings", "header"),
    [
        ("generic", {}, "Authorization"),
        ("generic", {"proof": "hmac"}, "X-Hub-Signature-256"),
        ("generic", {"algorithm": "sha512"}, "X-Hub-Signature-256"),
        ("generic", {"header": "X-Signature"}, "X-Signature"),
        ("generic", {"header": "X-Token", "proof": "secret"}, "X-Token"),
        ("generic", {"proof": "path"}, None),
        ("zot", {"header": "X-Token"}, "X-Token"),
        ("zot", {}, "Authorization"),
        ("dockerhub", {}, None),
    ],
)
def test_the_header_of_the_proof_follows_the_settings(
    source: str, settings: dict[str, str], header: str | None
) -> None:
    assert SOURCES[source].header_with(settings) == header


def test_the_settings_of_the_samples_are_accepted() -> None:
    for sample in OURS:
        SOURCES[sample.source].check_settings(sample.trust.settings)


def test_a_signature_of_long_ago_is_rejected() -> None:
    signed = next(one for one in OURS if one.name == "pipeline_signed")
    late = replace(signed.request, at=signed.request.at + timedelta(hours=1))
    with pytest.raises(Unauthenticated, match="five minutes"):
        SOURCES["gitlab"].verify(late, signed.trust)


def test_a_valid_token_does_not_replace_a_valid_signature() -> None:
    signed = next(one for one in OURS if one.name == "pipeline_signed_with_a_raw_key")
    headers = {**signed.request.headers, "x-gitlab-token": signed.trust.secret}
    SOURCES["gitlab"].verify(replace(signed.request, headers=headers), signed.trust)
    with pytest.raises(Unauthenticated):
        SOURCES["gitlab"].verify(replace(signed.request, headers=headers, body=b"{}"), signed.trust)


def test_a_signing_token_is_not_accepted_as_a_secret_token() -> None:
    key = "whsec_c2VjcmV0"
    with pytest.raises(Unauthenticated):
        SOURCES["gitlab"].verify(Request({"x-gitlab-token": key}, b"{}"), Trust(key))


def test_an_id_of_undecodable_bytes_identifies_a_delivery() -> None:
    headers = {"ce-type": "zotregistry.image.updated", "ce-id": "\udcff"}
    body = b'{"name": "acme/web", "reference": "1"}'
    notification = SOURCES["zot"].parse(Request(headers, body), Trust("s", Domain("zot.example.com")))
    assert (notification.event_id or "").startswith("sha256:")


def test_people_tell_the_registries_apart_by_their_titles() -> None:
    titles = [source.title for source in SOURCES.values()]
    assert all(titles)
    assert len({title.casefold() for title in titles}) == len(titles)
