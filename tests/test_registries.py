"""A login goes with the images it is for, and with no others."""

from datetime import UTC, datetime

import pytest

from gateway.errors import InvalidInput
from gateway.reference import Repository
from gateway.registries import Credentials, Registry, RegistryType, Scope, choose

OWN = Credentials("own", "secret")


def kept(url: str, user: str) -> Registry:
    return Registry(
        registry_id=user,
        registry_name=user,
        registry_url=url,
        registry_type=RegistryType.CLOUD,
        image_prefix=None,
        scope=Scope.parse(url),
        login=Credentials(user, "secret"),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("url", ["", "docker.io", "index.docker.io", "https://index.docker.io/v1/", "docker.io/"])
def test_docker_hub_has_many_names(url: str) -> None:
    assert Scope.parse(url).covers(Repository.parse("mycompany/myapp"))


@pytest.mark.parametrize(
    ("url", "repository", "covered"),
    [
        ("ghcr.io", "ghcr.io/acme/app", True),
        ("https://ghcr.io", "ghcr.io/acme/app", True),
        ("GHCR.io", "ghcr.io/acme/app", True),
        ("ghcr.io", "docker.io/acme/app", False),
        ("ghcr.io/acme", "ghcr.io/acme/app", True),
        ("ghcr.io/acme", "ghcr.io/acmes/app", False),
        ("registry.example.com:5000", "registry.example.com:5000/app", True),
        ("registry.example.com:5000", "registry.example.com/app", False),
    ],
)
def test_a_scope_covers_its_domain_and_path_and_no_more(url: str, repository: str, covered: bool) -> None:
    assert covered is Scope.parse(url).covers(Repository.parse(repository))


@pytest.mark.parametrize(
    "url", ["ftp://ghcr.io", "https://user:pw@ghcr.io", "ghcr.io?x=1", "gh cr.io", "ghcr.io/../x", "[", "[:: ]:5000"]
)
def test_what_names_no_registry_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        Scope.parse(url)


def test_an_applications_own_login_comes_first() -> None:
    image = Repository.parse("ghcr.io/acme/app")
    assert choose(image, (None, OWN), [kept("ghcr.io", "kept")]).by == OWN


def test_an_own_login_is_never_sent_to_another_registry() -> None:
    image = Repository.parse("ghcr.io/acme/app")
    login = choose(image, (Scope.parse("docker.io"), OWN), [])
    assert login.by is None
    assert "own login was not sent, since its registryUrl is docker.io" in login.told


def test_the_longest_path_wins_among_the_kept_logins() -> None:
    image = Repository.parse("ghcr.io/acme/app")
    chosen = choose(image, None, [kept("ghcr.io/acme", "near"), kept("ghcr.io", "far"), kept("quay.io", "other")])
    assert chosen.by == Credentials("near", "secret")


def test_a_password_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(OWN)
