"""Requests of registries as files: ours in samples/, and a bigger corpus where SAMPLES_DIR names one.

A sample is the body as it was sent, with its headers, the endpoint's trust and what is expected beside it.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.model.events import Notification
from gateway.model.reference import Domain
from gateway.sources import SOURCES, Request, Trust

HERE = Path(__file__).parents[1] / "samples"


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


#: what may stand beside a body; a field that nothing compares is a mistake, not a comment
OUR_FIELDS = frozenset({"headers", "_at", "_expect", "_keys", "_method", "_query", "_trust"})
CORPUS_FIELDS = frozenset({"headers", "method", "path", "query", "_meta"})
META_FIELDS = frozenset(
    {
        *("kind", "source", "headers_evidence", "note", "auth"),  # where the sample comes from
        *("event", "expect_deploy", "expect_refs", "expect_response", "delivery_id"),
    }
)


def refuse_unknown(about: Mapping[str, Any], name: str) -> None:
    """Raise ValueError for a field of a sample that no test reads."""
    known = CORPUS_FIELDS if "_meta" in about else OUR_FIELDS
    if unknown := about.keys() - known | about.get("_meta", {}).keys() - META_FIELDS:
        raise ValueError(f"no test reads {sorted(unknown)} of the sample {name}")


def samples(folder: Path, source: str) -> Iterator[Sample]:
    for beside in sorted(folder.glob("*.headers.json")):
        about = json.loads(beside.read_bytes())
        refuse_unknown(about, beside.name)
        name = beside.name.removesuffix(".headers.json")
        body = next(path for path in folder.glob(f"{name}.*") if path != beside).read_bytes()
        headers = {key.lower(): value for key, value in about["headers"].items()}
        at = datetime.fromisoformat(about.get("_at", "1970-01-01T00:00:00+00:00"))
        keys = {address: (folder / file).read_bytes() for address, file in about.get("_keys", {}).items()}
        method = about.get("method") or about.get("_method", "POST")
        query = about.get("query") or about.get("_query", {})
        request = Request(headers, body, method, query, at=at, keys=keys)
        yield Sample(source, name, request, about)


OURS = [sample for source in SOURCES for sample in samples(HERE / source, source)]


def named(sample: Sample) -> str:
    return f"{sample.source}-{sample.name}"


# -- the bigger corpus


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
            "portainer_service_webhook": {"proof": "path"},
        },
    ),
}


def corpus(name: str) -> list[Sample]:
    """Return the requests of a folder; files whose names begin with `_` are not sent to a gateway."""
    root, folder = os.environ.get("SAMPLES_DIR"), CORPUS.get(name, Folder(""))
    if not root:
        return []
    keys = {address: (Path(root) / name / file).read_bytes() for address, file in folder.keys.items()}
    read = samples(Path(root) / name, folder.source)
    return [replace(one, request=asked(one, folder, keys)) for one in read if not one.name.startswith("_")]


def attachment(name: str, file: str) -> Sample | None:
    """Return a file of a folder that is not sent to a gateway, where there is a corpus."""
    root = os.environ.get("SAMPLES_DIR")
    read = samples(Path(root) / name, CORPUS[name].source) if root else ()
    return next((one for one in read if one.name == file), None)


def asked(sample: Sample, folder: Folder, keys: Mapping[str, bytes]) -> Request:
    """The request with what stood around it: an address with the secret, the clock and the keys of its time."""
    signed_at = re.search(rb'"Timestamp": "([^"]+)"', sample.request.body)
    at = datetime.fromisoformat(signed_at[1].decode()) if signed_at else folder.at or sample.request.at
    secret = {"secret": folder.secret} if folder.secret else {}
    return replace(sample.request, at=at, keys=keys, query={**sample.request.query, **secret})


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


def trust_of(sample: Sample, folder: Folder) -> Trust:
    settings = folder.settings.get(sample.name) or folder.settings.get("", {})
    host = Domain(folder.host) if folder.host else None
    return Trust(secret_of(sample) or folder.secret, host, settings=settings)


class Outcome(StrEnum):
    """What a source makes of a request."""

    UNPROVEN = "unproven"
    MALFORMED = "malformed"
    HANDSHAKE = "handshake"
    PARSED = "parsed"


def outcome(sample: Sample, folder: Folder) -> tuple[Outcome, Notification]:
    source, trust = SOURCES[sample.source], trust_of(sample, folder)
    try:
        source.verify(sample.request, trust)
        if source.handshake(sample.request, trust):
            return Outcome.HANDSHAKE, Notification()
        return Outcome.PARSED, source.parse(sample.request, trust)
    except Unauthenticated:
        return Outcome.UNPROVEN, Notification()
    except InvalidInput:
        return Outcome.MALFORMED, Notification()


def outcome_of(sample: Sample) -> frozenset[Outcome]:
    """Return what a source may make of a sample of the corpus, by what stands beside it."""
    meta = sample.about["_meta"]
    if meta["event"] == "reject" or "verification must FAIL" in (meta.get("note") or ""):
        return frozenset({Outcome.UNPROVEN})
    if meta["event"] == "handshake":
        return frozenset({Outcome.HANDSHAKE})
    if meta["event"] == "trigger":  # it has no body, and names no image
        return frozenset({Outcome.MALFORMED})
    if meta["expect_deploy"] is None:
        return frozenset({Outcome.PARSED, Outcome.MALFORMED})
    return frozenset({Outcome.PARSED})


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


#: what the folders of the bigger corpus hold, a sample each; none where no corpus is named
SENT = [(folder, sample) for folder in CORPUS for sample in corpus(folder)]
SENT_NAMES = [f"{folder}-{sample.name}" for folder, sample in SENT]
