"""Each source's deliveries get the response that its sender needs, from raw bytes to database row and status."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

import pytest

from gateway.api.ingress import pipeline
from gateway.api.ingress.key_fetcher import KeyFetcher
from gateway.model.reference import Reference
from gateway.sources import SOURCES, Trust
from tests.support.api_client import Web
from tests.support.each_case import each_case
from tests.support.samples import CORPUS, OURS, SENT, SENT_NAMES, Outcome, Sample, expected_of, named, outcome, trust_of


@dataclass
class World:
    """The clock and the addresses that a sample was sent among."""

    sample: Sample | None = None
    visited: list[str] = field(default_factory=list)

    def now(self, _zone: tzinfo) -> datetime:
        assert self.sample
        return self.sample.request.at

    async def fetch_keys(self, addresses: Sequence[str], **_: object) -> Mapping[str, bytes]:
        assert self.sample
        return {address: self.sample.request.keys[address] for address in addresses}

    async def visit(self, address: str) -> None:
        self.visited.append(address)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(pipeline, "datetime", world)
    monkeypatch.setattr(KeyFetcher, "fetch_keys", lambda _, *asked, **how: world.fetch_keys(*asked, **how))
    monkeypatch.setattr(KeyFetcher, "visit", lambda _, address: world.visit(address))
    return world


async def send(web: Web, world: World, sample: Sample, trust: Trust) -> tuple[int, object, Mapping[str, str]]:
    """Send it to an endpoint of its own."""
    host, aliases = trust.host, list(trust.aliases)
    path = await web.endpoint(sample.source, trust.secret or "none", host, aliases=aliases, settings=trust.settings)
    world.sample = sample
    asked = sample.request
    sent = {name: value for name, value in asked.headers.items() if name not in OF_THE_CONNECTION}
    async with web.client.request(asked.method, path, params=asked.query, data=asked.body, headers=sent) as answer:
        received = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, await answer.json() if answer.content_length else None, received


OF_THE_CONNECTION = {"content-length", "host", "connection", "accept-encoding", "transfer-encoding"}


@dataclass(frozen=True)
class Following:
    """The applications that follow what a sample names, and those beside them that must not move."""

    by_image: Mapping[str, str]
    bystanders: frozenset[str]


async def follow(web: Web, images: Iterable[str]) -> Following:
    """Make an application of each image, and one of the same repository with another tag."""
    await web.empty("applications")
    by_image = {image: await web.application(image) for image in images}
    others = {f"{Reference.parse(image).repository}:{OTHER}" for image in images}
    return Following(by_image, frozenset([await web.application(image) for image in sorted(others)]))


OTHER = "another-tag-than-any-sample"


def deployed(answer: object) -> list[str]:
    """Return the applications that a delivery deploys."""
    assert isinstance(answer, dict)
    return sorted(one["applicationId"] for one in answer["deployments"])


@each_case("sample", OURS, ids=named)
async def test_a_sample_with_a_matching_push_gets_202_and_any_other_200(
    shared_web: Web, world: World, sample: Sample
) -> None:
    following = await follow(shared_web, dict.fromkeys(str(event.reference) for event in sample.parsed().events))
    status, answer, _ = await send(shared_web, world, sample, sample.trust)
    if SOURCES[sample.source].handshake(sample.request, sample.trust):
        assert status == 200
    else:
        wanted = sorted(following.by_image.values())
        assert (status, deployed(answer)) == (202 if wanted else 200, wanted)


@each_case(("folder", "sample"), SENT, ids=SENT_NAMES)
async def test_a_sample_of_the_corpus_gets_the_response_that_its_sender_needs(
    shared_web: Web, world: World, folder: str, sample: Sample
) -> None:
    meta, wanted = sample.about["_meta"], expected_of(sample, CORPUS[folder])
    following = await follow(shared_web, dict.fromkeys(name for name, _ in wanted if ":" in name and "@" not in name))
    trust, (made, notification) = trust_of(sample, CORPUS[folder]), outcome(sample, CORPUS[folder])
    status, answer, headers = await send(shared_web, world, sample, trust)

    if expected := meta.get("expect_response"):
        assert (status, answer) == (expected["status"], expected.get("json", answer))
        assert {name.lower(): value for name, value in expected.get("headers", {}).items()}.items() <= headers.items()
    if made is Outcome.UNPROVEN:
        assert (status, await shared_web.count("deployments")) == (401, 0)
    elif made is Outcome.MALFORMED:
        assert (status, await shared_web.count("deployments")) == (200 if never_refused(sample) else 400, 0)
    elif made is Outcome.HANDSHAKE:
        assert (status, await shared_web.count("deployments")) == (200, 0)
    else:
        told = {str(event.reference) for event in notification.events}
        ours = sorted(application for image, application in following.by_image.items() if image in told)
        assert (status, deployed(answer)) == (202 if ours else 200, ours)
        assert bool(ours) is bool(meta["expect_deploy"]) or meta["expect_deploy"] is None


def never_refused(sample: Sample) -> bool:
    return SOURCES[sample.source].always_accept


async def test_an_sns_confirmation_visits_the_subscribe_url(web: Web, world: World) -> None:
    sample = next(one for one in OURS if one.name == "sns_confirmation")
    assert (await send(web, world, sample, sample.trust))[0] == 200
    assert world.visited == [json.loads(sample.request.body)["SubscribeURL"]]


async def test_sns_gets_503_and_not_429_beyond_the_rate(web: Web) -> None:
    path = await web.endpoint("ecr", "s", rate=6)
    sent = {"x-api-key": "s", "x-amz-sns-message-type": "Notification"}
    assert [(await web.post(path, b"{}", **sent))[0] for _ in range(2)] == [400, 503]
