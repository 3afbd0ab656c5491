"""Image names are parsed like Docker parses them, or are rejected."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.errors import InvalidInput
from gateway.model.reference import Digest, Reference, Repository, Tag, parse_digest, parse_domain, parse_tag

HEX = "0123456789abcdef" * 4

components = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
domains = st.sampled_from(
    ["docker.io", "index.docker.io", "ghcr.io", "localhost", "localhost:5000", "reg:5000", "[::1]:5000", "A.b:1"]
)
repositories = st.builds(Repository.of, domains, st.lists(components, min_size=1, max_size=4).map("/".join))
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True).map(Tag)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map(lambda digits: Digest(f"sha256:{digits}"))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("library/nginx", "docker.io/library/nginx:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/acme/app:1", "docker.io/acme/app:1"),
        ("app:16", "docker.io/library/app:16"),
        ("reg:5000/app", "reg:5000/app:latest"),
        ("reg:5000/app:1", "reg:5000/app:1"),
        ("reg:5000", "docker.io/library/reg:5000"),
        ("localhost/app", "localhost/app:latest"),
        ("GHCR.io/acme/app", "ghcr.io/acme/app:latest"),
        ("ghcr.io/a/b/c__d-e.f:V1_.-", "ghcr.io/a/b/c__d-e.f:V1_.-"),
        ("[fd00::1]:5000/app", "[fd00::1]:5000/app:latest"),
        (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}"),
        (f"app:1@sha256:{HEX}", f"docker.io/library/app:1@sha256:{HEX}"),
    ],
)
def test_a_name_is_made_canonical_as_docker_does(text: str, canonical: str) -> None:
    assert canonical == str(Reference.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "/", ":", "@", "../x", "a/../b", "./a", "a//b", "A//b", "/a", "a/", "-a", "a-", "a..b", "a___b"),
        *("app:", "app:a b", "app:-x", "app:" + "t" * 129, "app:1:2", "App", "ghcr.io/Acme/app", "Registry/app"),
        *("app@sha256:12", "app@", f"app@sha256:{HEX.upper()}", f"app@md5:{HEX}", f"app@sha256:{HEX}@x"),
        *("a\nb", "app:1\n", "a%2fb", "a?b", "a#b", "a\0b", "ünï", "reg:port/app", "reg:123456/app", "user@reg:1/a"),
        *("https://ghcr.io/acme/app", "a/" * 200 + "a", "x" * 10_000),
    ],
)
def test_a_name_that_docker_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Reference.parse(text)


@settings(deadline=None)
@given(repositories, st.none() | tags, st.none() | digests)
def test_a_formatted_reference_parses_to_itself(repository: Repository, tag: Tag | None, digest: Digest | None) -> None:
    reference = Reference(repository, tag if tag or digest else Tag("latest"), digest)

    assert reference == Reference.parse(str(reference))
    assert repository == Repository.parse(str(repository))


@settings(deadline=None)
@given(st.text(string.ascii_letters + string.digits + "./:@_-[]\n ü", max_size=30) | st.text())
def test_any_text_is_a_name_or_invalid_input(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidInput:
        return
    assert reference == Reference.parse(str(reference))


def test_a_bare_word_is_no_registry() -> None:
    with pytest.raises(InvalidInput, match="registry:5000"):
        parse_domain("registry")
    with pytest.raises(InvalidInput):
        Repository.of("registry", "app")


@pytest.mark.parametrize("text", ["", "sha256:", f"sha256:{HEX}0", f"SHA256:{HEX}", f"{HEX}", f"sha256:{HEX}\n"])
def test_only_a_whole_digest_is_one(text: str) -> None:
    assert f"sha256:{HEX}" == parse_digest(f"sha256:{HEX}")
    with pytest.raises(InvalidInput):
        parse_digest(text)


def test_a_tag_may_look_like_a_number_or_a_commit() -> None:
    assert [parse_tag(text) for text in ("0.6", "16", HEX)] == ["0.6", "16", HEX]


def test_a_pinned_reference_can_lose_its_pin() -> None:
    pinned = Reference.parse(f"app:1@sha256:{HEX}")

    assert pinned.pinned
    assert not pinned.without_digest().pinned
    assert pinned == pinned.without_digest().with_digest(Digest(f"sha256:{HEX}"))
