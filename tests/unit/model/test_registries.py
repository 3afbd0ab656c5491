"""Credentials are used for the images they are for, and for no others."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.model.ecr import AwsIdentity
from gateway.model.errors import InvalidInput
from gateway.model.reference import Repository
from gateway.model.registries import Credentials, Registration, Registry, RegistryScope, RegistryType, select_login
from gateway.store import applications
from tests.support.api_client import VAULT, Web

OWN = Credentials("own", "secret")


def kept(url: str, user: str) -> Registry:
    return Registry(
        registry_id=user,
        registry_name=user,
        registry_url=url,
        registry_type=RegistryType.CLOUD,
        image_prefix=None,
        scope=RegistryScope.parse(url),
        login=Credentials(user, "secret"),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("url", ["", "docker.io", "index.docker.io", "https://index.docker.io/v1/", "docker.io/"])
def test_docker_hub_has_many_names(url: str) -> None:
    assert RegistryScope.parse(url).covers(Repository.parse("mycompany/myapp"))


@pytest.mark.parametrize(
    ("url", "repository", "covered"),
    [
        ("ghcr.io", "ghcr.io/acme/app", True),
        ("https://ghcr.io", "ghcr.io/acme/app", True),
        ("GHCR.io", "ghcr.io/acme/app", True),
        ("ghcr.io", "docker.io/acme/app", False),
        ("https://ghcr.io:443/v2/", "ghcr.io/acme/app", True),
        ("http://registry.example.com:80", "registry.example.com/app", True),
        ("https://hub.docker.com", "acme/app", True),
        ("https://registry.gitlab.com/group", "registry.gitlab.com/group/project/web", True),
        ("quay.io/acme", "quay.io/acme/app", True),
        ("https://gcr.io", "gcr.io/project-id/app", True),
        ("gcr.io", "eu.gcr.io/project-id/app", False),
        ("https://europe-docker.pkg.dev/project-id", "europe-docker.pkg.dev/project-id/repo/app", True),
        ("myregistry.azurecr.io", "myregistry.azurecr.io/myapp", True),
        ("https://123456789.dkr.ecr.us-east-1.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/app", True),
        ("https://ghcr.io/v2/acme", "ghcr.io/acme/app", True),
        ("https://ghcr.io/v2/acme", "ghcr.io/other/app", False),
        ("ghcr.io/acme", "ghcr.io/acme/app", True),
        ("ghcr.io/acme", "ghcr.io/acmes/app", False),
        ("registry.example.com:5000", "registry.example.com:5000/app", True),
        ("registry.example.com:5000", "registry.example.com/app", False),
    ],
)
def test_a_scope_covers_its_domain_and_path_and_no_more(url: str, repository: str, covered: bool) -> None:
    assert covered is RegistryScope.parse(url).covers(Repository.parse(repository))


@pytest.mark.parametrize(
    "url",
    [
        "ghcr.io:99999",
        "ftp://ghcr.io",
        "https://user:pw@ghcr.io",
        "ghcr.io?x=1",
        "gh cr.io",
        "ghcr.io/../x",
        "[",
        "[:: ]:5000",
    ],
)
def test_invalid_registry_addresses_are_rejected(url: str) -> None:
    with pytest.raises(InvalidInput):
        RegistryScope.parse(url)


def test_an_applications_own_login_comes_first() -> None:
    image = Repository.parse("ghcr.io/acme/app")
    assert select_login(image, (None, OWN), [kept("ghcr.io", "kept")]).credentials == OWN


def test_an_own_login_is_never_sent_to_another_registry() -> None:
    image = Repository.parse("ghcr.io/acme/app")
    login = select_login(image, (RegistryScope.parse("docker.io"), OWN), [])
    assert login.credentials is None
    assert "own login was not sent, since it was given for docker.io" in login.description


def test_the_longest_path_wins_among_the_kept_logins() -> None:
    image = Repository.parse("ghcr.io/acme/app")
    chosen = select_login(image, None, [kept("ghcr.io/acme", "near"), kept("ghcr.io", "far"), kept("quay.io", "other")])
    assert chosen.credentials == Credentials("near", "secret")


def test_a_password_is_not_shown_by_accident() -> None:
    assert "secret" not in repr(OWN)


def test_an_error_names_the_registry_that_is_for_another_path() -> None:
    login = select_login(Repository.parse("ghcr.io/other/app"), None, [kept("ghcr.io/acme", "near")])
    assert login.description == "without a login; the registry 'near' is for ghcr.io/acme only"


def test_certificates_are_trusted_for_a_host_whosever_login_is_used() -> None:
    trusting = replace(kept("registry.example.com", "kept"), login=None, ca_certificates="PEM\n")
    login = select_login(Repository.parse("registry.example.com/app"), (None, OWN), [trusting])
    assert (login.credentials, login.ca_certificates) == (OWN, "PEM\n")


ROLE = "arn:aws:iam::123456789012:role/pull"


@pytest.mark.parametrize(
    ("url", "more", "region"),
    [
        ("123456789.dkr.ecr.us-east-1.amazonaws.com", {}, "us-east-1"),
        ("https://123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", {}, "cn-north-1"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", {}, "us-gov-west-1"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", {}, "eu-west-1"),
        ("public.ecr.aws", {}, "us-east-1"),
        ("ecr.internal.example.com", {"region": "eu-west-2"}, "eu-west-2"),
    ],
)
def test_the_ecr_region_comes_from_the_host_name_or_the_setting(url: str, more: dict[str, str], region: str) -> None:
    made = Registration.parse({"registry_name": "x", "registry_type": "ecr", "registry_url": url, **more})
    assert isinstance(made.login, AwsIdentity)
    assert made.login.region == region


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("region", {"registry_url": "ecr.example.com"}),
        ("region", {"region": "eu-west-1"}),
        ("region", {"registry_url": "ecr.example.com", "region": "../x"}),
        ("secretAccessKey", {"access_key_id": "AKIA"}),
        ("accessKeyId", {"secret_access_key": "s"}),
        ("profile", {"access_key_id": "AKIA", "secret_access_key": "s", "profile": "p"}),
        ("roleArn", {"role_arn": "pull"}),
        ("externalId", {"external_id": "ours"}),
        ("username", {"username": "AWS", "password": "token"}),
        ("caCertificate", {"ca_certificate": "no certificate"}),
        ("caCertificate", {"ca_certificate": "-----BEGIN PRIVATE KEY-----"}),
        ("registryUrl", {"registry_url": "ftp://x"}),
        ("password", {"registry_type": "cloud", "username": "bob"}),
        ("username", {"registry_type": "cloud", "password": "x"}),
        ("username", {"registry_type": "cloud", "username": "a:b", "password": "x"}),
    ],
)
def test_invalid_credentials_are_rejected_with_the_field(field: str, given: dict[str, str]) -> None:
    host = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    with pytest.raises(InvalidInput) as refused:
        Registration.parse({"registry_name": "x", "registry_type": "ecr", "registry_url": host, **given})
    assert refused.value.field == field


def test_keys_of_amazons_may_come_as_user_name_and_password() -> None:
    host = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    given = {"registry_name": "x", "registry_type": "ecr", "registry_url": host, "username": "AKIA", "password": "s3"}
    made = Registration.parse({**given, "role_arn": ROLE, "external_id": "ours"})
    assert made.login == AwsIdentity("us-east-1", False, "AKIA", "s3", None, ROLE, "ours")
    assert "s3" not in repr(made)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_a_line_end_after_an_applications_own_password_is_none_of_it(web: Web, end: str) -> None:
    given = {
        "name": "a",
        "dockerImage": "r.io/a",
        "registryUrl": "r.io",
        "username": "plain",
        "password": f"simple{end}",
    }
    made = await web.mutate("application.create", **given)
    async with web.pool.acquire() as connection:
        found = await applications.select_application(connection, VAULT, made["applicationId"])
    assert found.credentials == Credentials("plain", "simple")
