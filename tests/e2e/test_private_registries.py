"""Applications are deployed from registries that ask who comes: by password, by token, over TLS of their own."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web as http

from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import private_registry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code
from gateway.model.registries import Registration
from gateway.store import registries
from gateway.store.database import Pool
from tests.e2e.test_registry_hostnames import HTPASSWD, LOGIN
from tests.support.api_client import Web
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, an_application
from tests.support.token_registries import Amazon, Gate, TokenService, amazon, filled, gate, served

PATH = "team/web"
# A key file, as Google gives one: of many lines, and with what base64 writes in two ways.
KEY_FILE = '{\n  "type": "service_account",\n  "private_key": "-----BEGIN\\n~~~???>>>\\nü"\n}\n'


@asynccontextmanager
async def an_application_of(pool: Pool, engine: Engine, address: str, name: str) -> AsyncIterator[DeployedApp]:
    """Make an application of an image there, and take it away again."""
    app = await an_application(pool, engine, Pushes(address, f"tests/{name}"))
    await app.set(docker_image=f"{address}/{PATH}:v1")
    try:
        yield app
    finally:
        for container in await app.containers():
            await containers.remove(engine, container.container_id)


async def keep(pool: Pool, **given: Any) -> str:
    async with pool.acquire() as connection:
        made = await registries.insert_registry(
            connection, VAULT, Registration.parse({"registry_name": "Ours", **given})
        )
    return made.registry_id


async def change(pool: Pool, registry_id: str, **given: Any) -> None:
    async with pool.acquire() as connection, connection.transaction():
        found = await registries.select_registry(connection, VAULT, registry_id)
        changed = Registration.parse({**found.fields(), **given})
        await registries.update_registry(connection, VAULT, registry_id, changed)


def told(deployment: Deployment) -> tuple[Status, Code, str]:
    assert deployment.reason is not None
    return deployment.status, deployment.reason.code, deployment.reason.message


@pytest.fixture
async def by_password(tmp_path: Path) -> AsyncIterator[str]:
    """A registry that takes one name and password."""
    await filled(tmp_path, PATH, "v1", "v2")
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(HTPASSWD)
    async with private_registry(tmp_path, free_port(), htpasswd=htpasswd) as registry:
        yield registry.address


async def test_the_nearest_registry_lets_in_and_an_error_says_whose_login_was_used(
    pool: Pool, engine: Engine, supervisor: None, by_password: str
) -> None:
    async with an_application_of(pool, engine, by_password, "password") as app:
        status, code, message = told(await app.ask(Kind.DEPLOY))
        assert (status, code) == (Status.FAILED, Code.DENIED)
        assert f"{by_password} denies {by_password}/{PATH}:v1 without a login" in message

        await app.set(registry_url="ghcr.io", registry_username="bob", registry_password="own")
        _, _, message = told(await app.ask(Kind.DEPLOY))
        assert "the application's own login was not sent, since it was given for ghcr.io" in message

        registry_id = await keep(pool, registry_url=f"http://{by_password}/team", username=LOGIN[0], password="wrong")
        _, code, message = told(await app.ask(Kind.DEPLOY))
        assert code is Code.DENIED
        assert f"with the login of the registry 'Ours' (http://{by_password}/team, user AWS)" in message

        await change(pool, registry_id, password=LOGIN[1])
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        await app.set(docker_image=f"{by_password}/{PATH}:v2")
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


@pytest.mark.long
async def test_a_registry_with_a_token_service_takes_a_key_file_as_password(
    pool: Pool, engine: Engine, supervisor: None, tmp_path: Path
) -> None:
    first, _ = await filled(tmp_path, PATH, "v1", "v2")
    service = TokenService(("_json_key", KEY_FILE.rstrip("\n")), tmp_path)
    async with served(service.answer) as address:
        service.url = f"http://{address}"
        async with (
            private_registry(tmp_path, free_port(), auth=service.auth) as registry,
            an_application_of(pool, engine, registry.address, "token") as app,
        ):
            await app.set(registry_username="_json_key", registry_password="another")
            _, code, message = told(await app.ask(Kind.DEPLOY))
            assert code is Code.DENIED
            assert "with the application's own login (user _json_key)" in message

            await app.set(registry_username=None, registry_password=None)
            await keep(pool, registry_url=registry.address, username="_json_key", password=KEY_FILE)
            deployment = await app.ask(Kind.DEPLOY)
            assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, first)
            assert any(agent.startswith("docker/") for agent in service.asked)

            await app.set(docker_image=f"{registry.address}/{PATH}:v3")
            _, code, message = told(await app.ask(Kind.DEPLOY))
            assert code is Code.NOT_FOUND
            assert "The nearest tags are: v2, v1" in message


async def test_a_certificate_of_ones_own_is_trusted_where_it_was_given_and_the_engines_cure_is_told(
    pool: Pool, engine: Engine, supervisor: None, tmp_path: Path
) -> None:
    await filled(tmp_path, PATH, "v1")
    # To the engine every registry on loopback is an insecure one: so it is at the address of its bridge.
    bridge = await engine.call("GET", "networks/bridge")
    host = bridge["IPAM"]["Config"][0]["Gateway"]
    authority = trustme.CA()
    own = authority.issue_cert(host)
    files = {name: tmp_path / name for name in ("htpasswd", "cert.pem", "key.pem")}
    files["htpasswd"].write_text(HTPASSWD)
    files["cert.pem"].write_bytes(b"".join(one.bytes() for one in own.cert_chain_pems))
    files["key.pem"].write_bytes(own.private_key_pem.bytes())
    tls = (files["cert.pem"], files["key.pem"])
    async with (
        private_registry(tmp_path, free_port(), host=host, htpasswd=files["htpasswd"], tls=tls) as registry,
        an_application_of(pool, engine, registry.address, "tls") as app,
    ):
        login = {"registry_url": registry.address, "username": LOGIN[0], "password": LOGIN[1]}
        registry_id = await keep(pool, **login)
        status, code, message = told(await app.ask(Kind.DEPLOY))
        assert (status, code) == (Status.FAILED, Code.REGISTRY_UNTRUSTED)
        assert f"the certificate of {registry.address} is signed by no authority that is trusted here" in message

        await change(pool, registry_id, ca_certificate=authority.cert_pem.bytes().decode())
        deployment = await app.ask(Kind.DEPLOY)
        status, code, message = told(deployment)
        assert (status, code) == (Status.FAILED, Code.REGISTRY_UNTRUSTED)
        assert "x509" in message
        assert deployment.reason is not None
        assert "/etc/docker/certs.d/HOST:PORT/ca.crt" in deployment.reason.remedy

        trusted = Path("/etc/docker/certs.d") / registry.address
        trusted.mkdir(parents=True)
        try:
            (trusted / "ca.crt").write_bytes(authority.cert_pem.bytes())
            assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        finally:
            shutil.rmtree(trusted)


# -- Amazon ECR


@pytest.fixture
async def aws(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Amazon]:
    async with amazon() as (one, url):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield one


@pytest.fixture
async def ecr(tmp_path: Path, aws: Amazon) -> AsyncIterator[tuple[Gate, str]]:
    await filled(tmp_path, PATH, "v1", "v2")
    async with gate(tmp_path, aws) as guarded:
        yield guarded


KEYS = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG"}


async def test_a_token_that_ends_in_the_middle_of_a_rollout_is_fetched_anew(
    pool: Pool, engine: Engine, supervisor: None, aws: Amazon, ecr: tuple[Gate, str]
) -> None:
    guard, address = ecr
    await keep(pool, registry_type="ecr", registry_url=address, region="eu-central-1", **KEYS)
    async with an_application_of(pool, engine, address, "ecr") as app:
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        assert aws.asked == [KEYS["access_key_id"]]

        def end(request: http.Request) -> None:
            if request.headers["User-Agent"].startswith("docker/") and "/manifests/" in request.path:
                guard.passing = lambda _request: None
                aws.expire()

        guard.passing = end
        guard.denied.clear()
        await app.set(docker_image=f"{address}/{PATH}:v2")
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        assert any("/blobs/" in path for path in guard.denied)
        assert aws.asked == [KEYS["access_key_id"]] * 2

        aws.expire()
        assert told(await app.ask(Kind.REDEPLOY))[1] is Code.SATISFIED
        assert len(aws.asked) == 3  # to ask what the tag names


async def test_an_assumed_role_asks_for_the_token_and_a_refusal_says_as_whom(
    web: Web, aws: Amazon, ecr: tuple[Gate, str]
) -> None:
    role = "arn:aws:iam::123456789012:role/pull"
    given = {"registryType": "ecr", "registryUrl": ecr[1], "awsRegion": "eu-central-1", "roleArn": role}
    keys = {"awsAccessKeyId": KEYS["access_key_id"], "awsSecretAccessKey": KEYS["secret_access_key"]}
    assert await web.mutate("registry.testRegistry", **given, **keys, externalId="ours") is True
    assert aws.asked[0].startswith("ASIA")  # the keys that the role was given, not ours

    aws.refuses = (400, "AccessDeniedException")
    status, answer = await web.post("/api/registry.testRegistry", {**given, **keys})
    assert status == 400
    assert f"eu-central-1 to {role}, assumed by the key AKIAIOSFODNN7EXAMPLE: AccessDenied" in answer["message"]
    assert KEYS["secret_access_key"] not in str(answer)

    status, answer = await web.post("/api/registry.testRegistry", {**given, "profile": "nobody"})
    assert status == 400
    assert "the profile nobody: The config profile (nobody) could not be found" in answer["message"]


async def test_a_login_is_tried_for_real_before_or_after_it_is_kept(web: Web, by_password: str) -> None:
    good = {"registryUrl": by_password, "username": LOGIN[0], "password": LOGIN[1], "registryType": "cloud"}
    assert await web.mutate("registry.testRegistry", **good) is True
    status, answer = await web.post("/api/registry.testRegistry", {**good, "password": "wrong"})
    assert status == 400
    assert f"{by_password} denies the login" in answer["message"]
    assert "Check the user name and token" in answer["message"]

    made = await web.mutate("registry.create", **{**good, "registryName": "Ours", "password": "wrong"})
    assert (await web.post("/api/registry.testRegistryById", {"registryId": made["registryId"]}))[0] == 400
    assert await web.mutate("registry.update", registryId=made["registryId"], password=LOGIN[1]) is True
    assert await web.mutate("registry.testRegistryById", registryId=made["registryId"]) is True

    nowhere = {**good, "registryUrl": f"127.0.0.1:{free_port()}"}
    status, answer = await web.post("/api/registry.testRegistry", nowhere)
    assert status == 400
    assert "refuses the connection" in answer["message"]
