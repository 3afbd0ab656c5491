"""Worst cases of everything that reads what others wrote: valid in form, and as costly as their length allows.

A case is one line: its name, what reads it, and what makes an input of about n bytes.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from yarl import URL

from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc import trpc
from gateway.docker.engine.errors import classify
from gateway.model import configuration_rules, interpolation
from gateway.model.applications import Desired, parse_environment
from gateway.model.configuration import Configuration, parse_command
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import parse_network, sender_address
from gateway.model.events import PushEvent
from gateway.model.matching import Candidate, PushFilter, PushMatcher, select_push
from gateway.model.reference import Reference, Repository, Tag
from gateway.model.tag_policies import TagPolicy
from gateway.registry import errors, responses
from gateway.registry.challenge import parse_challenge
from gateway.sources import SOURCES, redact_body
from tests.fuzz.growth import Case
from tests.fuzz.targets import targets


def cases() -> Iterator[Case]:
    yield from WIRE
    yield from STORED
    yield from CONFIGURED
    yield from HEADS
    yield from REGISTRIES
    yield from _bodies()
    yield from _inputs()
    yield from FOLLOWED


def _call(body: bytes) -> object:
    """Read the body of a call, as both surfaces do."""
    return trpc.unwrap(trpc.parse_json(body))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _typed(values: Any, of: Any = None) -> bytes:
    return _json({"json": {} if of is None else of, "meta": {"values": values}})


def _nested(n: int) -> Any:
    """Return types within types, each path of as many parts as are accepted."""
    node: Any = ["undefined"]
    for _ in range(60):
        node = ["set", {"a": node, **{f"b{number}": ["undefined"] for number in range(n // 1200)}}]
    return node


# -- the wire of the API

WIRE = [
    Case("call: a path of one part that ends in a backslash", _call, lambda n: _typed({"a" * n + "\\": ["undefined"]})),
    Case("call: a path of backslashes", _call, lambda n: _typed({"\\" * n: ["undefined"]})),
    Case("call: a path of dots", _call, lambda n: _typed({"." * n: ["undefined"]})),
    Case("call: a path of digits", _call, lambda n: _typed({"a." + "9" * n: ["undefined"]}, {"a": [1]})),
    Case("call: many paths", _call, lambda n: _typed({f"a.{one}": ["undefined"] for one in range(n // 20)})),
    Case(
        "call: many long paths", _call, lambda n: _typed({f"{one}{'.a' * 60}": ["bigint"] for one in range(n // 150)})
    ),
    Case("call: types within types", _call, lambda n: _typed(_nested(n))),
    Case("call: a large value that is no number", _call, lambda n: _typed({"a": ["number"]}, {"a": ["x"] * (n // 5)})),
    Case("call: a long name beside a zero byte", _call, lambda n: _json({"z": "\0", "A" * (n // 2): [0] * (n // 6)})),
    Case("call: long names within each other", _call, lambda n: _json({"z": "\0", "x": _deep(n, 500)})),
    Case("call: a list beside a zero byte", _call, lambda n: _json([*([0] * (n // 4)), "\0"])),
    Case("call: many small values", _call, lambda n: _json([[]] * (n // 4))),
    Case("call: a batch", lambda body: trpc.unwrap_batch(trpc.parse_json(body), 50), lambda n: _json(_batch(n))),
]


def _deep(n: int, levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {"a" * (n // levels): value}
    return value


def _batch(n: int) -> Any:
    return {
        str(one): {"json": {"a": "b" * (n // 100)}, "meta": {"values": {"a" * (n // 100): ["undefined"]}}}
        for one in range(50)
    }


# -- texts that are stored, and read again


def _resolve(text: str) -> object:
    return interpolation.resolve(text, environment=None, project=None)


STORED = [
    Case("environment: many lines", parse_environment, lambda n: "A=1\n" * (n // 4)),
    Case("environment: blanks in a value", parse_environment, lambda n: "A=x" + " " * n + "y"),
    Case("environment: escaped quotes", parse_environment, lambda n: 'A="' + '\\"  ' * (n // 4)),
    Case("environment: a quote without an end", parse_environment, lambda n: "A='" + "x\n" * (n // 2)),
    Case("environment: quotes without ends", parse_environment, lambda n: 'A="\n' * (n // 4)),
    Case("environment: lines written in one", parse_environment, lambda n: "A=1\\n" * (n // 5)),
    Case("command: one word", parse_command, lambda n: "a" * n, 1 << 16),
    Case("command: many quotes", parse_command, lambda n: "'a'" * (n // 3), 1 << 16),
    Case("command: a quote without an end", parse_command, lambda n: '"' + "\\a" * (n // 2), 1 << 16),
    Case("a body that is kept: many members", redact_body, lambda n: _json({f"a{one}": "b" for one in range(n // 12)})),
    Case(
        "a body that is kept: many variables", redact_body, lambda n: _json({"variables": [{"key": "a"}] * (n // 15)})
    ),
    Case("variables: each names the next", _resolve, lambda n: "".join(_names(one) for one in range(n // 16))),
    Case("variables: many names in one value", _resolve, lambda n: "B=1\nA=" + "${{B}}" * (n // 6)),
    Case("variables: openings without an end", _resolve, lambda n: "A=" + "${{" * (n // 3)),
]


def _names(one: int) -> str:
    return f"A{one}=${{{{A{one + 1}}}}}\n"


# -- what an application runs with: rules over all of its parts


def _configured(given: dict[str, Any]) -> object:
    configuration = Configuration.model_validate(given)
    configuration_rules.validate(configuration)
    return configuration.with_ids(configuration)


def _each(field: str, bytes_each: int, make: Callable[[int], Any]) -> Callable[[int], dict[str, Any]]:
    return lambda n: {field: [make(one) for one in range(n // bytes_each)]}


def _port(one: int) -> dict[str, Any]:
    return {"targetPort": 80, "publishedPort": 1 + one % 60_000}


def _address(one: int) -> dict[str, Any]:
    return {"targetPort": 80, "publishedPort": 80, "hostIp": f"10.{one // 250 % 250}.{one % 250}.{one // 62_500}"}


CONFIGURED = [
    Case("configuration: ports", _configured, _each("ports", 50, _port)),
    Case("configuration: addresses of one port", _configured, _each("ports", 60, _address)),
    Case(
        "configuration: volumes",
        _configured,
        _each("mounts", 60, lambda one: {"type": "volume", "source": f"a{one}", "target": f"/a{one}"}),
    ),
    Case(
        "configuration: files",
        _configured,
        _each("mounts", 60, lambda one: {"type": "file", "filePath": "a", "content": "", "target": f"/a{one}"}),
    ),
    Case(
        "configuration: files deep in folders",
        _configured,
        _each("mounts", 4000, lambda one: {"type": "file", "content": "", "target": f"/a{one}" + "/a" * 2000}),
    ),
    Case("configuration: tmpfs", _configured, _each("tmpfs", 20, lambda one: {"target": f"/a{one}"})),
    Case("configuration: hosts", _configured, _each("extraHosts", 14, lambda one: f"a{one}:10.0.0.1")),
    Case(
        "configuration: labels", _configured, lambda n: {"labels": {f"a{one}": "" for one in range(n // 10)}}, 1 << 18
    ),
]

# -- what a registry answers


def _nearest(tags: list[str]) -> object:
    return errors.nearest_tags(Reference.parse(f"r.io/app:v{'1' * 125}"), tags)


REGISTRIES = [
    Case(
        "registry: an index of many platforms",
        responses.platforms,
        lambda n: _json(_index(n // 30)),
    ),
    Case("registry: a manifest", responses.config_digest, lambda n: _json({"config": {"digest": "sha256:" + "a" * n}})),
    Case("registry: many tags", responses.tags, lambda n: _json({"tags": [f"v{one}" for one in range(n // 10)]})),
    Case("registry: a tag of any length", responses.tags, lambda n: _json({"tags": ["a" * n]})),
    Case("registry: the nearest of many tags", _nearest, lambda n: [f"v{'1' * 120}{one}" for one in range(n // 130)]),
    Case("registry: layers of an artifact", responses.artifact, lambda n: {"layers": [{"mediaType": "a"}] * (n // 20)}),
    Case(
        "registry: images of an index", responses.artifact, lambda n: {"manifests": [{"artifactType": "a"}] * (n // 20)}
    ),
    Case("registry: a challenge", parse_challenge, lambda n: "Bearer " + 'a="b",' * (n // 6)),
    Case("registry: a challenge without an end", parse_challenge, lambda n: "Bearer " + "a" * n),
]


def _index(platforms: int) -> Any:
    return {"manifests": [{"platform": {"os": str(one), "architecture": "a"}} for one in range(platforms)]}


# -- who follows what


def _follower(n: int) -> Candidate:
    policy, repository = TagPolicy.parse("semver", "*"), Repository.parse("r.io/app")
    events = [PushEvent(repository, Tag(f"1.0.{one}")) for one in range(n // 60)]
    return Candidate("a", Desired.RUNNING, None, tuple((event, policy) for event in events))


_MOST_PUSHES = 1000  # of one delivery


def _many_followers(n: int) -> tuple[list[PushEvent], int]:
    """As many pushes as one delivery may have, and followers, each in the same way."""
    events = [PushEvent(Repository.parse("r.io/app"), Tag(f"1.0.{one}")) for one in range(min(n // 60, _MOST_PUSHES))]
    return events, n // 60


def _taken(given: tuple[list[PushEvent], int]) -> object:
    events, followers = given
    pushes, follows = (
        PushMatcher(events),
        (PushFilter(None, "r.io/app", TagPolicy.parse("semver", "*"), from_image=False),),
    )
    return [(pushes.evaluate(follows[0]), pushes.matches(follows)) for _ in range(followers)]


FOLLOWED = [
    Case("a delivery of versions", lambda follower: select_push(follower, ()), _follower),
    Case("a delivery of many versions to many followers", _taken, _many_followers),
]


# -- headers, and what an engine says


def _sent_by(forwarded: str) -> object:
    return sender_address("127.0.0.1", forwarded, [parse_network("0.0.0.0/0")])


def _parameters(text: str) -> object:
    query = URL.build(path="/", query_string=text, encoded=True).query
    return [query.getall(name) for name in query]


HEADS = [
    Case("head: addresses of proxies", _sent_by, lambda n: "1.2.3.4," * (n // 8)),
    Case("head: many headers", redact_headers, lambda n: {f"x-{one}": "a" for one in range(n // 10)}),
    Case("head: many parameters", _parameters, lambda n: "&".join(f"a{one}=1" for one in range(n // 8)), 1 << 16),
    Case("head: one parameter many times", _parameters, lambda n: "a=1&" * (n // 4), 1 << 16),
    Case("engine: words", lambda said: classify(500, said), lambda n: "a: " * (n // 3)),
    Case(
        "engine: a name without an end", lambda said: classify(409, said), lambda n: 'The container name "/' + "a" * n
    ),
    Case("engine: ports", lambda said: classify(500, said), lambda n: "0.0.0.0:80 " * (n // 11)),
]

# -- bodies of webhooks: the recorded ones, their lists and texts longer


def _bodies() -> Iterator[Case]:
    for source in SOURCES:
        target = targets()[f"source-{source}"]
        for number, seed in enumerate(target.seeds[:4]):
            head, blank, body = seed.partition(b"\n\n")
            if not body.startswith((b"{", b"[")):
                continue
            value = json.loads(body)
            for what in ("lists", "texts"):
                if _stretched(value, 2, what) != _stretched(value, 1, what):
                    make = partial(_longer, head + blank, value, what)
                    yield Case(f"webhook: {source} {number}, longer {what}", target.run, make)


def _longer(head: bytes, value: Any, what: str, n: int) -> bytes:
    return head + _json(_stretched(value, max(1, n // len(json.dumps(value))), what))


def _stretched(value: Any, times: int, what: str) -> Any:
    match value:
        case dict():
            return {name: _stretched(one, times, what) for name, one in value.items()}
        case list() if what == "lists":
            return [_stretched(one, 1, what) for one in value[:1]] * times
        case list():
            return [_stretched(one, times, what) for one in value[:1]]
        case str() if what == "texts":
            return value * times
        case _:
            return value


# -- what each procedure takes: each field as long as it may be, by its own description


def _inputs() -> Iterator[Case]:
    for procedure in PROCEDURES.values():
        for field, schema in procedure.takes.model_json_schema().get("properties", {}).items():
            for kind in sorted(_MAKERS.keys() & {one.get("type") for one in (schema, *schema.get("anyOf", ()))}):
                name = f"input: {procedure.name} {field}, {kind}"
                yield Case(name, procedure.takes.model_validate, partial(_given, field, kind), _LARGEST_INPUT)


def _given(field: str, kind: str, n: int) -> dict[str, Any]:
    return {field: _MAKERS[kind](n)}


_LARGEST_INPUT = 1 << 18
_MAKERS: dict[str, Callable[[int], Any]] = {
    "string": lambda n: "a " * (n // 2),
    "array": lambda n: [f"a{one}" for one in range(n // 8)],
    "object": lambda n: {f"a{one}": "" for one in range(n // 8)},
}
