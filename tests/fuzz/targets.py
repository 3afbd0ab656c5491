"""Every parser of what strangers and users write, as a function of bytes that raises only on a defect.

A parser returns, or raises what it declares; what it returns, and what it says, can be stored.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from gateway.api.rpc import trpc
from gateway.model import interpolation, labels
from gateway.model.applications import parse_environment
from gateway.model.configuration import parse_command
from gateway.model.endpoints import parse_network, parse_repository_glob
from gateway.model.errors import InvalidInput, Unauthenticated
from gateway.model.events import Notification
from gateway.model.quantities import parse_cpus, parse_memory
from gateway.model.reference import Reference, parse_tag
from gateway.model.registries import RegistryScope
from gateway.model.servers import Address
from gateway.model.tag_policies import Rule, TagPolicy
from gateway.registry.challenge import parse_challenge
from gateway.sources import SOURCES, Request, detect
from gateway.sources._json_pointer import parse_pointer
from tests.fuzz import attached
from tests.support.samples import OURS, Sample

_LONGEST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """`run` on any bytes; `seeds` show what is understood."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def targets() -> dict[str, Target]:
    return {
        **{f"source-{name}": _source(name) for name in SOURCES},
        "deploy-address": Target(_addressed, [one.request.body for one in OURS if not one.trust.settings]),
        "reference": _text(_reference, ["nginx", "reg:5000/a/b:1.2", "ghcr.io/a/b@sha256:" + 64 * "0", "[::1]:5/a"]),
        "scope": _text(RegistryScope.parse, ["https://index.docker.io/v1/", "ghcr.io/acme", "[::1]:5000", ""]),
        "engine-address": _text(Address.parse, ["unix:///run/docker.sock", "tcp://10.0.0.5:2376", "ssh://u@[::1]:22"]),
        "network": _text(parse_network, ["192.0.2.0/24", "2001:db8::/32", "10.0.0.1"]),
        "repository-glob": _text(parse_repository_glob, ["ghcr.io/acme/*", "ghcr.io/acme/web"]),
        "environment": _text(parse_environment, ["A=1\nexport B='x\ny'\n# c\nC=\"\\n${A}\"\n", "A", "=1"]),
        "variables": _text(_variables, ["A=${{project.B}}\0\0B=1", "A=${{B}}\nB=${{A}}", "A=${{environment.B}}\0B=1"]),
        "command": _text(parse_command, ["sh -c 'echo \"$A\"'", "a\\ b", "'"]),
        "memory": _text(parse_memory, ["2048MB", "512m", "1.5GiB", "6291456"]),
        "cpus": _text(parse_cpus, ["0.5", "2", "500000000"]),
        "challenge": _text(parse_challenge, ['Bearer realm="https://a/t",service="r",scope="repository:a:pull"']),
        "pointer": _text(parse_pointer, ["/a/0/b~1c", "", "/~0"]),
        "policy": _text(_policy, ["semver\n^1.2 || ~3\nv1.2.3", "regex\n\\d{8}-[a-f]+\nx", "glob\nmain-*[!a]\nmain-b"]),
        "labels": _text(
            _labels,
            [
                "gateway.follow=ghcr.io/a/b semver ^1\ngateway.order=auto\ngateway.name=x",
                "com.centurylinklabs.watchtower.monitor-only=1\ngateway.follow=stable",
                "gateway.enable=maybe\ngateway.x=1\ncom.centurylinklabs.watchtower.no-pull=x",
            ],
        ),
        "public-key": _text(attached.parse_key, attached.KEYS),
        "signed": Target(attached.examine_all(storable), attached.SIGNED),
        "referrers": Target(attached.list_all, attached.LISTED),
        "trpc": Target(_trpc, [b'{"json":{"a":1},"meta":{"values":{}}}', b'{"0":{"json":1},"1":{}}', b"", b"[1]"]),
    }


def _text(parse: Callable[[str], object], seeds: Sequence[str]) -> Target:
    def run(data: bytes) -> None:
        with suppress(InvalidInput):
            parse(data.decode(errors="ignore"))

    return Target(run, [seed.encode() for seed in seeds])


def _addressed(data: bytes) -> None:
    """What came to an application's own address, from whichever registry."""
    with told():
        _see(detect.parse(Request({"content-type": "application/json"}, data), Reference.parse("acme/web:1")))


def _variables(text: str) -> None:
    own, environment, project, *_ = (*text.split("\0"), "", "")
    interpolation.resolve(own, environment=environment, project=project)


def _reference(text: str) -> None:
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference


def _policy(text: str) -> None:
    rule, pattern, tag, *globs = (*text.split("\n"), "", "", "")
    policy = TagPolicy.parse(rule, pattern, include=globs[:1] if globs[0] else (), exclude=globs[1:2], prereleases=True)
    policy.matches(parse_tag(tag))
    assert policy.rule in set(Rule)


def _labels(text: str) -> None:
    given = dict(line.partition("=")[::2] for line in text.split("\n"))
    labels.fingerprint(given, watchtower=True)
    request = labels.read({labels.ENABLE: "true", **given}, watchtower=True)
    if request is not None and request.enabled:
        follow = () if request.follow is None else (request.follow.policy.pattern, str(request.follow.repository))
        assert all(map(storable, (request.name or "", *request.not_carried, *follow)))


def _trpc(data: bytes) -> None:
    with suppress(InvalidInput):
        given = trpc.parse_json(data)
        trpc.unwrap(given)
        trpc.unwrap_batch(given, 3)


def _source(name: str) -> Target:
    """The first byte chooses a sample, for what stood around it; headers follow, a blank line, and the body."""
    samples = [one for one in OURS if one.source == name][:256]
    seeds = [bytes([index]) + _wire(sample.request) for index, sample in enumerate(samples)]
    return Target(partial(_ask, samples), seeds)


def _wire(request: Request) -> bytes:
    lines = (f"{name}: {value}\n" for name, value in request.headers.items())
    return "".join(lines).encode() + b"\n" + request.body


def _ask(samples: Sequence[Sample], data: bytes) -> None:
    sample = samples[(data[:1] or b"\0")[0] % len(samples)]
    head, _, body = data[1:].partition(b"\n\n")
    # As a server hands them on.
    lines = [line.partition(": ") for line in head.decode(errors="surrogateescape").split("\n")]
    headers = {name.lower(): value for name, _, value in lines}
    request, source = replace(sample.request, headers=headers, body=body), SOURCES[sample.source]
    for call in (source.keys, source.verify, source.handshake):
        with told():
            call(request, sample.trust)
    with told():
        _see(source.parse(request, sample.trust))


def _see(notification: Notification) -> None:
    """See that what was understood can be stored."""
    for event in notification.events:
        assert Reference.parse(str(event.reference)) == event.reference
    for ignored in notification.ignored:
        assert storable(ignored.reference), ignored
        assert storable(ignored.reason), ignored
    assert storable(notification.event_id or "")


def storable(text: str) -> bool:
    """Whether PostgreSQL takes it, and nobody fills the disk with it."""
    with suppress(UnicodeEncodeError):
        return "\0" not in text and len(text.encode()) <= _LONGEST_TEXT
    return False


@contextmanager
def told() -> Iterator[None]:
    """Pass over the errors that sources declare, if what they say can be stored."""
    said = ""
    try:
        yield
    except (InvalidInput, Unauthenticated) as error:
        said = str(error)
    assert storable(said), ascii(said)[:_LONGEST_TEXT]
