"""Each source under its registry's true name: dockerd and the gateway believe a registry here to be all of them.

A mount namespace of their own gives them another hosts file; a CA of our own vouches for the names.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Image, Pusher
from gateway.cli.demo.process import GatewayProcess
from gateway.cli.demo.registry import private_registry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, connect
from gateway.model.reference import Digest, Reference
from gateway.sources import SOURCES
from tests.integration.api.test_webhooks import signed
from tests.support.command_line import gateway_process
from tests.support.databases import database_settings
from tests.support.distribution_hooks import envelope
from tests.support.real_parts import SIDE_BY_SIDE

# One of its own, so that two runs on a machine do not take it from each other.
ADDRESS = f"127.77.{os.getpid() % 251}.{os.getpid() // 251 % 251 + 1}"
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
HOSTS = ("registry-1.docker.io", "ghcr.io", ECR, "registry.example.com")
LOGIN = ("AWS", "hunter2")
# bcrypt of the password above, which is all that docker-registry takes
HTPASSWD = "AWS:$2b$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm\n"


class AllHere(AbstractResolver):
    """Resolves every name to the registry."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:  # noqa: ARG002
        return [ResolveResult(hostname=host, host=ADDRESS, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        """Hold nothing."""


@dataclass
class World:
    """The registry under all its names, and who believes them."""

    gateway: GatewayProcess
    engine: Engine
    trusted: ssl.SSLContext

    async def push(self, version: str, name: str) -> Digest:
        reference = Reference.parse(name)
        domain = reference.repository.domain
        base = f"https://{'registry-1.docker.io' if domain == 'docker.io' else domain}"
        connector = aiohttp.TCPConnector(resolver=AllHere(), ssl=self.trusted)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await Pusher(session, base, LOGIN).push(Image(version), reference)

    async def tell(self, source: str, body: bytes, **headers: str) -> None:
        secret = () if SOURCES[source].header_with({}) is None else ("--secret-file", "-")
        endpoint = orjson.loads(await self.gateway.cli("webhooks", "create", source, "--json", *secret, given="s"))
        async with aiohttp.ClientSession() as session:
            url = self.gateway.url + endpoint["path"]
            sent = {"Content-Type": "application/json", **headers}
            async with session.post(url, data=body, headers=sent) as answer:
                assert answer.status == 202, await answer.text()


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> AsyncIterator[World]:
    place = tmp_path_factory.mktemp("names")
    authority = trustme.CA()
    certificate = authority.issue_cert(*HOSTS)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    files = {name: place / name for name in ("ca.pem", "cert.pem", "key.pem", "hosts", "htpasswd")}
    authority.cert_pem.write_to_path(files["ca.pem"])
    certificate.private_key_pem.write_to_path(files["key.pem"])
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(files["cert.pem"], append=number > 0)
    _write(files["hosts"], "127.0.0.1 localhost\n" + "".join(f"{ADDRESS} {host}\n" for host in HOSTS))
    _write(files["htpasswd"], HTPASSWD)
    believe = ("unshare", "--mount", "sh", "-c", f'mount --bind {files["hosts"]} /etc/hosts && exec "$@"', "sh")
    environment = {"SSL_CERT_FILE": str(files["ca.pem"])}
    database = await database_settings(postgres_server, "names")
    settings = {**environment, **database, "GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_LOG_FORMAT": "text"}
    async with (
        private_registry(
            place / "registry", 443, host=ADDRESS, htpasswd=files["htpasswd"],
            tls=(files["cert.pem"], files["key.pem"]),
        ),
        private_engine(environment, SIDE_BY_SIDE, believe) as dockerd,
        connect(dockerd.host) as engine,
        gateway_process(place / "gateway", dockerd.host, settings, believe) as gateway,
    ):  # fmt: skip
        yield World(gateway, engine, trusted)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def hub(tag: str) -> bytes:
    pushed = {"tag": tag, "pushed_at": 1, "pusher": "me"}
    return orjson.dumps({"push_data": pushed, "repository": {"repo_name": "mycompany/app"}})


def github(tag: str, digest: Digest) -> bytes:
    version = {
        "version": digest,
        "package_url": f"ghcr.io/myorg/app:{tag}",
        "container_metadata": {"tag": {"name": tag, "digest": digest}},
    }
    package = {"name": "app", "namespace": "myorg", "package_type": "CONTAINER", "package_version": version}
    return orjson.dumps({"action": "published", "package": package})


def ecr(tag: str, digest: Digest) -> bytes:
    detail = {"result": "SUCCESS", "repository-name": "app", "image-digest": digest, "action-type": "PUSH"}
    event = {
        "id": digest,
        "detail-type": "ECR Image Action",
        "source": "aws.ecr",
        "account": ECR.split(".", maxsplit=1)[0],
    }
    return orjson.dumps({**event, "region": "eu-west-1", "detail": {**detail, "image-tag": tag}})


@pytest.mark.parametrize(
    ("source", "image", "registry_url"),
    [
        ("dockerhub", "mycompany/app:v1", "https://index.docker.io/v1/"),
        ("ecr", f"{ECR}/app:v1", ECR),
        pytest.param("github", "ghcr.io/myorg/app:v1", "ghcr.io", marks=pytest.mark.long),
        pytest.param("distribution", "registry.example.com/app:v1", "registry.example.com", marks=pytest.mark.long),
    ],
)
async def test_a_private_image_is_deployed_under_its_true_name(
    world: World, source: str, image: str, registry_url: str
) -> None:
    login = {"username": LOGIN[0], "password": LOGIN[1], "registryUrl": registry_url}
    made: dict[str, Any] = {"name": source, "applicationId": source, "dockerImage": image}
    # Half of them by a login of their own, half by one kept for all.
    if source in {"ecr", "github"}:
        made |= login
    else:
        await world.gateway.mutate("registry.create", {"registryName": source, **login})
    await world.gateway.mutate("application.create", made)
    digest = await world.push(source, image)
    told: dict[str, tuple[bytes, dict[str, str]]] = {
        "dockerhub": (hub("v1"), {}),
        "github": (github("v1", digest), signed(github("v1", digest))),
        "ecr": (ecr("v1", digest), {"x-api-key": "s"}),
        "distribution": (envelope(image, digest), {"Authorization": "Bearer s"}),
    }
    body, headers = told[source]
    await world.tell(source, body, **headers)

    row = await world.gateway.settled(source)
    canonical = image if "." in image.partition("/")[0] else f"docker.io/{image}"
    assert (row["state"], row["image"], row["digest"]) == ("succeeded", canonical, digest), row["reason"]
    (container,) = await containers.list_labelled(world.engine, source)
    found = await world.engine.call("GET", f"containers/{container.container_id}/json")
    assert found["Config"]["Image"] == f"{canonical}@{digest}"
    assert container.running


async def test_a_wrong_password_is_denied_and_says_what_to_do(world: World) -> None:
    made = {"name": "x", "applicationId": "denied", "dockerImage": "ghcr.io/myorg/other:v1"}
    login = {"username": "AWS", "password": "wrong", "registryUrl": "ghcr.io"}
    await world.push("denied", "ghcr.io/myorg/other:v1")
    await world.gateway.mutate("application.create", {**made, **login})
    await world.gateway.mutate("application.deploy", {"applicationId": "denied"})
    row = await world.gateway.settled("denied")
    assert (row["state"], row["reason"]["code"]) == ("failed", "denied")
    assert "token" in row["reason"]["remedy"]
    assert await asyncio.to_thread(lambda: "wrong" not in world.gateway.log.read_text())
