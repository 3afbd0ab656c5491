"""Each sender is answered as it must be, from its bytes on the wire to the row and the status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

import pytest

from gateway.sources import SOURCES, Trust
from gateway.web import receiving
from gateway.web.outward import Outward
from tests.corpus import CORPUS, OURS, Sample, corpus, expected_of, trust_of
from tests.real_web import Web


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
    monkeypatch.setattr(receiving, "datetime", world)
    monkeypatch.setattr(Outward, "fetch_keys", lambda _, *asked, **how: world.fetch_keys(*asked, **how))
    monkeypatch.setattr(Outward, "visit", lambda _, address: world.visit(address))
    return world


async def send(web: Web, world: World, sample: Sample, trust: Trust) -> tuple[int, object]:
    """Send it to an endpoint of its own."""
    host, aliases = trust.host, list(trust.aliases)
    path = await web.endpoint(sample.source, trust.secret or "none", host, aliases=aliases, settings=trust.settings)
    world.sample = sample
    asked = sample.request
    sent = {name: value for name, value in asked.headers.items() if name not in OF_THE_CONNECTION}
    async with web.client.request(asked.method, path, params=asked.query, data=asked.body, headers=sent) as answer:
        return answer.status, await answer.json() if answer.content_length else None


OF_THE_CONNECTION = {"content-length", "host", "connection", "accept-encoding", "transfer-encoding"}


async def follow(web: Web, images: Sequence[str]) -> None:
    """Have an application of each."""
    for image in images:
        await web.mutate("application.create", name="a", dockerImage=image)


def deployed(answer: object) -> int:
    assert isinstance(answer, dict)
    return len(answer["deployments"])


@pytest.mark.parametrize("source", SOURCES)
async def test_a_push_is_answered_202_and_whatever_else_200(web: Web, world: World, source: str) -> None:
    ours = [one for one in OURS if one.source == source]
    await follow(web, sorted({str(event.reference) for one in ours for event in one.parsed().events}))
    for sample in ours:
        status, answer = await send(web, world, sample, sample.trust)
        if SOURCES[source].handshake(sample.request, sample.trust):
            assert status == 200, sample.name
            continue
        told = sample.about["_expect"]["refs"]
        assert (status, deployed(answer)) == (202 if told else 200, len(told)), sample.name


async def test_a_confirmed_subscription_has_been_visited(web: Web, world: World) -> None:
    sample = next(one for one in OURS if one.name == "sns_confirmation")
    assert (await send(web, world, sample, sample.trust))[0] == 200
    assert world.visited == [json.loads(sample.request.body)["SubscribeURL"]]


async def test_sns_is_told_to_come_again_in_the_one_way_it_understands(web: Web) -> None:
    path = await web.endpoint("ecr", "s", rate=6)
    sent = {"x-api-key": "s", "x-amz-sns-message-type": "Notification"}
    assert [(await web.post(path, b"{}", **sent))[0] for _ in range(2)] == [400, 503]


@pytest.mark.parametrize("name", CORPUS)
async def test_the_corpus_is_answered_as_its_senders_must_be(web: Web, world: World, name: str) -> None:
    folder = CORPUS[name]
    source, wanted = SOURCES[folder.source], [one for one in corpus(name) if one.about["_meta"]["expect_deploy"]]
    await follow(web, sorted({image for one in wanted for image, _ in expected_of(one, folder)}))
    for sample in corpus(name):
        meta, trust = sample.about["_meta"], trust_of(sample, folder)
        status, answer = await send(web, world, sample, trust)
        if "expect_response" in meta:
            assert {"status": status, "json": answer} == meta["expect_response"], sample.name
        elif meta["expect_deploy"]:
            assert (status, deployed(answer)) == (202, len(expected_of(sample, folder))), sample.name
        elif status not in REFUSED:
            assert (status, meta["event"] == "handshake" or deployed(answer) == 0) == (200, True), sample.name
        else:
            # Whoever repeats what is refused has at least not been believed.
            assert status == 401 or not source.never_refuse, sample.name


REFUSED = {400, 401}
