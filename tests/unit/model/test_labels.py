"""What labels ask for, and what is said of labels that cannot be."""

import pytest

from gateway.model.configuration import Order
from gateway.model.errors import InvalidInput
from gateway.model.labels import fingerprint, is_declined, is_enabled, read

WT = "com.centurylinklabs.watchtower"
ON = {"gateway.enable": "true"}


@pytest.mark.parametrize(
    ("text", "repository", "policy"),
    [
        ("stable", None, "exact stable"),
        ("ghcr.io/acme/web:stable", "ghcr.io/acme/web", "exact stable"),
        ("ghcr.io/acme/web", "ghcr.io/acme/web", "exact latest"),
        ("web:1", "docker.io/library/web", "exact 1"),
        ("semver ^1.2", None, "semver ^1.2"),
        ("semver >=1 <3", None, "semver >=1 <3"),
        ("ghcr.io/acme/web glob main-*", "ghcr.io/acme/web", "glob main-*"),
        ("127.0.0.1:5000/a/b any", "127.0.0.1:5000/a/b", "any"),
        ("any", None, "any"),
    ],
)
def test_a_label_says_what_is_followed(text: str, repository: str | None, policy: str) -> None:
    request = read({**ON, "gateway.follow": text}, watchtower=False)
    assert request is not None
    assert request.follow is not None
    assert (request.follow.repository and str(request.follow.repository), str(request.follow.policy)) == (
        repository,
        policy,
    )


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"gateway.enable": "yes"}, "gateway.enable is 'yes', and must be true or false"),
        ({**ON, "gateway.folow": "stable"}, "no such label is read: gateway.folow; there are gateway.enable, "),
        ({**ON, "gateway.application": "web"}, "no such label is read: gateway.application"),
        ({**ON, "gateway.project": "shop"}, "a label puts no application into a project: leave it out, and move the"),
        ({**ON, "gateway.order": "first"}, "gateway.order is 'first', and must be start-first, stop-first or auto"),
        ({**ON, "gateway.name": "a\nb"}, r"gateway.name is 'a\\nb', and must be 1 to 255 printable characters"),
        ({**ON, "gateway.follow": ""}, "gateway.follow is '': it must be a tag, an image with a tag, or"),
        ({**ON, "gateway.follow": "semver"}, "the policy semver needs a pattern"),
        ({**ON, "gateway.follow": "regex ("}, "is not a valid RE2 regular expression"),
        ({**ON, "gateway.follow": "web@sha256:" + "0" * 64}, "a digest never moves: name a tag"),
        ({**ON, "gateway.follow": "a b c"}, "it must be a tag"),
        ({**ON, "gateway.follow": "glob a\0b"}, "it has characters that cannot be printed"),
        ({**ON, "gateway.follow": "x" * 1001}, "it has at most 1000 characters"),
    ],
)
def test_an_unknown_label_or_a_bad_value_is_named(labels: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem.replace("(", r"\(") if "RE2" not in problem else problem):
        read(labels, watchtower=False)


def test_all_problems_are_named_at_once_and_a_long_value_is_cut() -> None:
    with pytest.raises(InvalidInput) as refused:
        read({**ON, "gateway.order": "x" * 5000, "gateway.x": "", "gateway.name": ""}, watchtower=False)
    assert len(str(refused.value).split("; ")) == 4
    assert len(str(refused.value)) < 500


def test_without_the_label_nothing_is_asked_for() -> None:
    assert read({}, watchtower=True) is None
    assert read({"gateway.follow": "stable"}, watchtower=True) is None
    assert read({f"{WT}.enable": "true"}, watchtower=False) is None
    assert is_declined({"gateway.enable": "0", f"{WT}.enable": "true"}, watchtower=True)
    assert not is_declined({"gateway.enable": "yes"}, watchtower=False), "a bad value is reported"


def test_the_labels_of_watchtower_are_carried_or_named() -> None:
    request = read(
        {
            f"{WT}.enable": "1",
            f"{WT}.monitor-only": "true",
            f"{WT}.no-pull": "false",
            f"{WT}.scope": "prod",
            f"{WT}.depends-on": "db",
            f"{WT}.lifecycle.post-update": "/notify",
            "gateway.order": "stop-first",
        },
        watchtower=True,
    )
    assert request is not None
    assert (request.enabled, request.auto_deploy, request.order) == (True, False, Order.STOP_FIRST)
    assert [one.rpartition(": ")[0] for one in request.not_carried] == [
        f"{WT}.depends-on",
        f"{WT}.lifecycle.post-update",
        f"{WT}.no-pull",
        f"{WT}.scope",
    ]


@pytest.mark.parametrize("label", [f"{WT}.no-pull", f"{WT}.lifecycle.pre-update", WT])
def test_what_watchtower_would_not_update_so_is_left_alone_unless_the_gateways_own_label_says_so(label: str) -> None:
    theirs = {f"{WT}.enable": "true", label: "true"}
    with pytest.raises(InvalidInput, match=label):
        read(theirs, watchtower=True)
    request = read({**theirs, **ON}, watchtower=True)
    assert request is not None
    assert label in request.not_carried[0]


def test_the_gateways_own_label_wins() -> None:
    assert is_enabled({"gateway.enable": "true", f"{WT}.enable": "false"})
    assert not is_enabled({"gateway.enable": "false", f"{WT}.enable": "true"})
    refused = read({"gateway.enable": "false", f"{WT}.enable": "true"}, watchtower=True)
    assert refused is not None
    assert not refused.enabled


def test_only_labels_that_are_read_make_a_container_another_one() -> None:
    first = fingerprint({**ON, "a": "1", f"{WT}.scope": "a"}, watchtower=False)
    assert first == fingerprint({**ON, "a": "2", f"{WT}.scope": "b"}, watchtower=False)
    assert first != fingerprint({**ON, "gateway.order": "auto"}, watchtower=False)
    assert first == fingerprint(ON, watchtower=True), "else what a person deleted would come back with the setting"
    assert fingerprint({"gateway.a": "b\x00"}, watchtower=False) != fingerprint({"gateway.a": "b"}, watchtower=False)
