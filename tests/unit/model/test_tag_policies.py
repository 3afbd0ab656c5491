"""Policies match the tags they describe, versions only rise, and matching takes linear time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import InvalidInput
from gateway.model.reference import Tag
from gateway.model.tag_policies import TagPolicy, highest_match, is_lower


@pytest.mark.parametrize(
    ("rule", "pattern", "more", "taken", "left"),
    [
        ("exact", "v1", {}, ["v1"], ["v2", "V1", "v10"]),
        ("semver", "^1.2", {}, ["1.2.0", "v1.9.9"], ["1.1.9", "2.0.0", "1.3.0-rc.1", "1.3", "latest", "01.2.3", "v"]),
        ("semver", "~1.2", {}, ["1.2.7"], ["1.3.0"]),
        ("semver", ">=1 <3", {}, ["1.0.0", "2.9.9"], ["0.9.0", "3.0.0", "3.0.0-rc.1"]),
        ("semver", ">= v1,  < v3", {}, ["1.0.0", "v2.9.9"], ["0.9.0", "3.0.0"]),
        ("semver", "^v1.2", {}, ["v1.2.0", "1.3.0"], ["2.0.0"]),
        ("semver", ">=1.0.0-v1", {}, ["1.0.0-v2", "1.0.0"], ["1.0.0-v0"]),
        ("semver", "^1 || ^3", {}, ["1.0.0", "3.1.0"], ["2.0.0"]),
        ("semver", "^1.2", {"prereleases": True}, ["1.3.0-rc.1", "1.2.0-rc.1"], ["2.0.0-rc.1", "1.1.0-rc.1"]),
        ("semver", ">=1.3.0-rc.1", {}, ["1.3.0-rc.2", "1.3.0", "2.0.0"], ["1.4.0-rc.1"]),
        ("semver", "^16", {"exclude": ["*-alpine"], "prereleases": True}, ["16.1.0"], ["16.1.0-alpine"]),
        ("semver", "*", {"include": ["v*"]}, ["v1.0.0"], ["1.0.0"]),
        ("glob", "main-*", {}, ["main-1", "main-"], ["Main-1", "xmain-1", "main"]),
        ("glob", "*", {"include": ["a*", "b*"], "exclude": ["*x"]}, ["a1", "b1"], ["c1", "ax"]),
        ("regex", r"\d{8}", {}, ["20261120"], ["20261120x", "x20261120", "2026112"]),
        ("any", "", {}, ["x", "1.0.0"], []),
    ],
)
def test_a_policy_matches_the_tags_it_describes(
    rule: str, pattern: str, more: dict[str, object], taken: list[str], left: list[str]
) -> None:
    policy = TagPolicy.parse(rule, pattern, **more)  # type: ignore[arg-type]
    assert [tag for tag in taken + left if policy.matches(Tag(tag))] == taken


@pytest.mark.parametrize(
    ("rule", "pattern", "field"),
    [
        ("newest", "", "policy"),
        ("exact", "", "pattern"),
        ("exact", "a b", "pattern"),
        ("semver", "", "pattern"),
        ("semver", "newest", "pattern"),
        ("semver", "1 - x#v", "pattern"),
        ("glob", "", "pattern"),
        ("glob", "*" * 257, "pattern"),
        ("regex", "(a", "pattern"),
        ("regex", r"(a)\1", "pattern"),
        ("regex", "((a{100}){100}){100}", "pattern"),
        ("any", "x", "pattern"),
    ],
)
def test_a_policy_that_means_nothing_is_refused_naming_the_field(rule: str, pattern: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        TagPolicy.parse(rule, pattern)
    assert refused.value.field == field


def test_versions_are_compared_as_numbers_and_other_tags_are_never_lower() -> None:
    assert is_lower(Tag("1.9.0"), Tag("v1.10.0"))
    assert is_lower(Tag("1.0.0-rc.1"), Tag("1.0.0"))
    assert not is_lower(Tag("1.0.0"), Tag("1.0.0"))
    assert not is_lower(Tag("latest"), Tag("1.0.0"))
    assert not is_lower(Tag("1.0.0"), None)
    assert (
        highest_match([Tag("1.2.0"), Tag("1.10.0"), Tag("2.0.0"), Tag("latest")], TagPolicy.parse("semver", "^1"))
        == "1.10.0"
    )
    assert highest_match([Tag("latest")], TagPolicy.parse("semver", "^1")) is None


@pytest.mark.parametrize(
    ("rule", "pattern"), [("regex", "(a+)+b"), ("regex", "(a|a)*b"), ("glob", "*a" * 60 + "b"), ("semver", "^1")]
)
def test_no_tag_keeps_a_policy_busy(rule: str, pattern: str) -> None:
    # What backtracks would not end within the test's time, or the sun's.
    assert not TagPolicy.parse(rule, pattern).matches(Tag("a" * 128))


@given(
    rule=st.sampled_from(["exact", "semver", "glob", "regex", "any"]),
    pattern=st.text(max_size=40),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True),
)
def test_whatever_is_written_is_a_policy_or_is_refused(rule: str, pattern: str, tag: str) -> None:
    try:
        policy = TagPolicy.parse(rule, pattern)
    except InvalidInput:
        return
    assert policy.matches(Tag(tag)) in {True, False}
