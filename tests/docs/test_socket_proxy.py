"""deploy/socket-proxy.cfg lets pass what docs/engines.md lists, and nothing else."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
RULES = (ROOT / "deploy/socket-proxy.cfg").read_text(encoding="utf-8")

_KINDS = {"engine": "GET", "listed": "GET", "shown": "GET", "changed": "POST", "archived": "PUT", "removed": "DELETE"}
_ACLS = [(_KINDS[name], re.compile(rule)) for name, rule in re.findall(r"acl (\w+) path -m reg (\S+)", RULES)[2:]]


def passes(method: str, path: str) -> bool:
    """Tell what the rules say; `make compose-test` asks HAProxy itself."""
    plain, parents = re.findall(r"acl (?:plain|parents) path -m reg (\S+)", RULES)
    allowed = any(method == of and rule.search(path) for of, rule in _ACLS)
    return bool(re.search(plain, path)) and not re.search(parents, path) and allowed


def listed() -> list[tuple[str, str]]:
    """Return the requests of the tables; a word without a path replaces the last part of the path before it."""
    found: list[tuple[str, str]] = []
    for row in re.findall(r"^\| (`(?:GET|POST|PUT|DELETE).+?) \|", PAGE, re.MULTILINE):
        for words in re.findall(r"`([^`]+)`", row):
            method, _, path = words.rpartition(" ")
            if not method:
                method, before = found[-1]
                path = f"{before.rpartition('/')[0]}/{words}"
            found.append((method, path))
    return found


@pytest.mark.parametrize("version", ["", "/v1.41", "/v1.52"])
def test_what_the_page_lists_passes(version: str) -> None:
    assert len(listed()) >= 40
    for method, path in listed():
        shown = path.replace("{name}", "registry:5000/acme/web@sha256:ab").replace("{id}", "0a-b_c.d")
        assert passes(method, version + shown), f"{method} {shown}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1.41/build"),
        ("POST", "/v1.41/containers/web/exec"),
        ("POST", "/exec/1/start"),
        ("GET", "/containers/web/archive"),
        ("GET", "/containers/web/export"),
        ("POST", "/containers/web/attach"),
        ("GET", "/volumes"),
        ("DELETE", "/volumes/web"),
        ("POST", "/containers/prune"),
        ("POST", "/images/load"),
        ("POST", "/swarm/leave"),
        ("GET", "/swarm/unlockkey"),
        ("POST", "/plugins/pull"),
        ("GET", "/containers/../volumes"),
        ("DELETE", "/images/../volumes/web"),
        ("POST", "/images/..%2f..%2fbuild/tag"),
        ("GET", "/v1.41/v1.41/info"),
        ("HEAD", "/containers/web/archive"),
        ("PUT", "/containers/web/archive/more"),
    ],
)
def test_what_it_does_not_list_is_refused(method: str, path: str) -> None:
    assert not passes(method, path)
