"""Where alerts may be sent, how they are signed, and which commit an image names."""

from datetime import UTC, datetime

import pytest

from gateway.model.commits import REVISION, SOURCE, Commit, is_among, origin_of, parse_commit
from gateway.model.errors import InvalidInput
from gateway.model.network_addresses import Reach, reach_of
from gateway.model.webhook_signatures import check_secret, new_secret, sign
from gateway.notify.http import parse_retry_after

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_signature_is_that_of_the_published_example() -> None:
    made = sign(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert check_secret(new_secret())
    for wrong in ("secret", "whsec_c2hvcnQ=", "whsec_%%%"):
        with pytest.raises(InvalidInput, match="24 to 64"):
            check_secret(wrong)


ADDRESSES = {
    Reach.PUBLIC: "93.184.215.14 2606:4700::1111 64:ff9b::808:808",
    Reach.PRIVATE: "10.0.0.1 192.168.1.1 172.16.0.1 127.0.0.1 ::1 fc00::1 100.64.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1",
    Reach.FORBIDDEN: "169.254.169.254 fe80::1 fe80::1%eth0 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 0.0.0.0 :: "
    "ff02::1 2002:a9fe:a9fe::1 fd00:ec2::254 168.63.129.16 100.100.100.200 192.0.0.192 224.0.0.1",
}


@pytest.mark.parametrize("reach", Reach)
def test_an_address_is_as_far_away_as_any_that_it_carries(reach: Reach) -> None:
    addresses = ADDRESSES[reach].split()
    assert {one: reach_of(one) for one in addresses} == dict.fromkeys(addresses, reach)


@pytest.mark.parametrize(
    ("source", "commit"),
    [
        ("https://github.com/acme/web", Commit("github.com", "acme/web", SHA)),
        ("https://GitHub.com/acme/web.git/", Commit("github.com", "acme/web", SHA)),
        ("https://user:secret@git.example.com:8443/a/b/c", Commit("git.example.com:8443", "a/b/c", SHA)),
        ("git@gitlab.com:a/b/c.git", Commit("gitlab.com", "a/b/c", SHA)),
        ("ssh://git@git.example.com:2222/acme/web.git", Commit("git.example.com", "acme/web", SHA)),
        ("git+https://github.com/acme/web", Commit("github.com", "acme/web", SHA)),
        ("https://github.com/acme", None),
        ("https://github.com/acme/../web", None),
        ("https://github.com/acme/%2e%2e", None),
        ("https://github.com/acme/web?x=/../y", Commit("github.com", "acme/web", SHA)),
        ("https://github.com/acme/we b", None),
        ("file:///etc/passwd", None),
        ("javascript:alert(1)/x", None),
        ("https://[::1", None),
        ("", None),
    ],
)
def test_a_commit_is_read_from_labels_that_anybody_may_have_written(source: str, commit: Commit | None) -> None:
    assert parse_commit({SOURCE: source, REVISION: SHA}) == commit
    assert parse_commit({SOURCE: source, REVISION: "main"}) is None


@pytest.mark.parametrize("source", ["https://github.com/acme/web?x=\0\ud800", "git@GitHub.com:acme/web.git"])
def test_of_an_origin_only_the_commit_is_taken_over(source: str) -> None:
    assert origin_of(source, SHA.upper()) == {SOURCE: "https://github.com/acme/web", REVISION: SHA}
    assert origin_of(source, None) is origin_of({}, SHA) is origin_of(source, SHA[:12]) is None


def test_an_alert_may_be_for_certain_repositories() -> None:
    commit = Commit("github.com", "Acme/web", SHA)
    assert is_among(commit, [])
    assert is_among(commit, ["other/*", "acme/*"])
    assert not is_among(commit, ["acme/w"])


def test_a_receiver_may_ask_to_wait_in_either_form_and_for_six_hours_at_most() -> None:
    now = datetime(2026, 11, 30, 8, 0, tzinfo=UTC)
    asked = ("120", "Mon, 30 Nov 2026 08:01:00 GMT", "Mon, 30 Nov 2026 07:00:00 GMT", "9" * 40, "-5", "soon", "")
    assert [parse_retry_after(one, now) for one in asked] == [120, 60, 0, 21600, None, None, None]
    assert parse_retry_after(f"1 Jan {'9' * 20} 1:1:1", now) is None
