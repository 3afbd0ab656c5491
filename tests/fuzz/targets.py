"""Every parser of what strangers and users write, as a function of bytes that raises only on a defect.

A parser returns, or raises what it declares; what it returns, and what it says, can be stored.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from gateway import trpc
from gateway.applications import parse_command, parse_environment
from gateway.endpoints import parse_network, parse_repository_glob
from gateway.errors import InvalidInput, Unauthenticated
from gateway.policies import Policy, Rule
from gateway.quantities import parse_cpus, parse_memory
from gateway.reference import Domain, Reference, parse_tag
from gateway.registries import Scope
from gateway.registry.challenge import parse_challenge
from gateway.servers import Address
from gateway.sources import SOURCES, Request, Source, Trust
from gateway.sources._pointer import parse_pointer

SAMPLES = Path(__file__).parents[1] / "samples"

_LONGEST_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Target:
    """`run` on any bytes; `seeds` show what is understood."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def targets() -> dict[str, Target]:
    return {
        **{f"source-{name}": _source(source) for name, source in SOURCES.items()},
        "reference": _text(_reference, ["nginx", "reg:5000/a/b:1.2", "ghcr.io/a/b@sha256:" + 64 * "0", "[::1]:5/a"]),
        "scope": _text(Scope.parse, ["https://index.docker.io/v1/", "ghcr.io/acme", "[::1]:5000", ""]),
        "engine-address": _text(Address.parse, ["unix:///run/docker.sock", "tcp://10.0.0.5:2376", "ssh://u@[::1]:22"]),
        "network": _text(parse_network, ["192.0.2.0/24", "2001:db8::/32", "10.0.0.1"]),
        "repository-glob": _text(parse_repository_glob, ["ghcr.io/acme/*", "ghcr.io/acme/web"]),
        "environment": _text(parse_environment, ["A=1\nexport B='x\ny'\n# c\nC=\"\\n${A}\"\n", "A", "=1"]),
        "command": _text(parse_command, ["sh -c 'echo \"$A\"'", "a\\ b", "'"]),
        "memory": _text(parse_memory, ["2048MB", "512m", "1.5GiB", "6291456"]),
        "cpus": _text(parse_cpus, ["0.5", "2", "500000000"]),
        "challenge": _text(parse_challenge, ['Bearer realm="https://a/t",service="r",scope="repository:a:pull"']),
        "pointer": _text(parse_pointer, ["/a/0/b~1c", "", "/~0"]),
        "policy": _text(_policy, ["semver\n^1.2 || ~3\nv1.2.3", "regex\n\\d{8}-[a-f]+\nx", "glob\nmain-*[!a]\nmain-b"]),
        "trpc": Target(_trpc, [b'{"json":{"a":1},"meta":{"values":{}}}', b'{"0":{"json":1},"1":{}}', b"", b"[1]"]),
    }


def _text(parse: Callable[[str], object], seeds: Sequence[str]) -> Target:
    def run(data: bytes) -> None:
        with suppress(InvalidInput):
            parse(data.decode(errors="ignore"))

    return Target(run, [seed.encode() for seed in seeds])


def _reference(text: str) -> None:
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference


def _policy(text: str) -> None:
    rule, pattern, tag, *globs = (*text.split("\n"), "", "", "")
    policy = Policy.parse(rule, pattern, include=globs[:1] if globs[0] else (), exclude=globs[1:2], prereleases=True)
    policy.takes(parse_tag(tag))
    assert policy.rule in set(Rule)


def _trpc(data: bytes) -> None:
    with suppress(InvalidInput):
        given = trpc.parse_json(data)
        trpc.unwrap(given)
        trpc.unwrap_batch(given, 3)


def _source(source: Source) -> Target:
    """The first byte chooses what the endpoint trusts; headers follow, a blank line, and the body."""
    samples = list(_samples(source.name))
    at = next((datetime.fromisoformat(about["_at"]) for about, _ in samples if "_at" in about), Request({}, b"").at)
    files = {address: file for about, _ in samples for address, file in about.get("_keys", {}).items()}
    keys = {address: (SAMPLES / source.name / file).read_bytes() for address, file in files.items()}
    trusts = [_trust(about["_trust"]) for about, _ in samples]
    seeds = [
        bytes([index])
        + "".join(f"{name}: {value}\n" for name, value in about["headers"].items()).encode()
        + b"\n"
        + body
        for index, (about, body) in enumerate(samples[:256])
    ]
    return Target(partial(_ask, source, trusts, Request({}, b"", at=at, keys=keys)), seeds)


def _samples(source: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    for beside in sorted((SAMPLES / source).glob("*.headers.json")):
        name = beside.name.removesuffix(".headers.json")
        yield (
            json.loads(beside.read_bytes()),
            next(path.read_bytes() for path in sorted(beside.parent.glob(f"{name}.*")) if path != beside),
        )


def _trust(told: dict[str, Any]) -> Trust:
    host = Domain(told["host"]) if "host" in told else None
    return Trust(told["secret"], host, frozenset(told.get("aliases", ())), told.get("settings", {}))


def _ask(source: Source, trusts: Sequence[Trust], world: Request, data: bytes) -> None:
    request, trust = request_of(data[1:], world), trusts[(data[:1] or b"\0")[0] % len(trusts)]
    for call in (source.keys, source.verify, source.handshake):
        with told():
            call(request, trust)
    with told():
        notification = source.parse(request, trust)
        for event in notification.events:
            assert Reference.parse(str(event.reference)) == event.reference
        for ignored in notification.ignored:
            assert storable(ignored.reference), ignored
            assert storable(ignored.reason), ignored
        assert storable(notification.event_id or "")


def request_of(data: bytes, world: Request) -> Request:
    """Return what was sent, at the time and among the keys of `world`."""
    head, _, body = data.partition(b"\n\n")
    # As a server hands them on.
    lines = [line.partition(": ") for line in head.decode(errors="surrogateescape").split("\n")]
    return replace(world, headers={name.lower(): value for name, _, value in lines}, body=body)


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
