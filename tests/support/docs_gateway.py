"""A gateway that has been given all that the documents print."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli.demo.images import Image
from gateway.cli.demo.registry import NotificationEndpoint
from gateway.model.reference import Digest, Reference
from tests.docs.test_coverage import RUN
from tests.support.databases import database_settings
from tests.support.doc_blocks import Block, blocks, examples
from tests.support.fake_internet import Internet, small_internet

APPLICATION = "app-123"
SCRIPTS = [block for block in RUN if block.language == "sh"]
LOGINS = [block for block in SCRIPTS if "/registry.create" in block.text]
FIRST = [block for block in SCRIPTS if "/application.create" in block.text and APPLICATION in block.text]
JSON = [block for block in RUN if block.language in {"json", "jsonc"}]
RECIPES = [block for block in RUN if block.language == "yaml"]

_LOGIN = re.compile(r'"username":\s*"([^"]+)",\s*"password":\s*"([^"]+)"')
_PULLED = re.compile(r"^docker pull (\S+)$", re.MULTILINE)
_COMMENT = re.compile(r" //[^\n]*")
#: logins that stand in no example: what CI is given, and what a key file of `{}` makes
_MORE_LOGINS = {"username": "password", "_json_key_base64": "e30=", "gitlab-ci-token": "glcbt-xxxxxxxxxxxxx"}
_DOCKERFILE = "FROM nginx:alpine\nCOPY version /version\n"


@dataclass
class Printed:
    """An example that has become an application."""

    application_id: str
    given: dict[str, Any]


@dataclass
class World:
    """What there is, and what has become of the examples of each block."""

    net: Internet
    place: Path
    variables: dict[str, str]
    examples: dict[Block, list[Printed]] = field(default_factory=dict)
    digests: dict[str, Digest] = field(default_factory=dict)

    async def push(self, name: str, version: str = "v1") -> Digest:
        """Put an image there; the same one at all registries that have this repository."""
        reference = Reference.parse(name)
        image = Image(f"{version} of {reference.repository.path}:{reference.tag}")
        self.digests[str(reference)] = digest = await self.net.push(name, image)
        return digest

    async def sh(self, script: str, *, shell: str = "sh", **variables: str) -> str:
        # `$KEY` is set, of a key that was made before.
        filled = script.replace("your-api-key", self.net.gateway.key).replace("KEY=$(gateway keys create laptop)", ":")
        return await self.net.sh(filled, self.place, shell=shell, **{**self.variables, **variables})

    async def deployed(self, application_id: str) -> dict[str, Any]:
        row = await self.net.gateway.settled(application_id)
        assert row["state"] in {"succeeded", "unchanged"}, row["reason"]
        return row

    async def container(self, application_id: str) -> dict[str, Any]:
        row = await self.net.gateway.query("application.one", applicationId=application_id)
        found: dict[str, Any] = await self.net.engine.call("GET", f"containers/{row['appName']}/json")
        return found


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> AsyncIterator[World]:
    place = tmp_path_factory.mktemp("internet")
    quick = {"GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_SWAPS": "8", "GATEWAY_LOG_FORMAT": "text"}
    database = await database_settings(postgres_server, "printed")
    async with small_internet(place, _logins(), **quick, **database) as net:
        gateway = net.gateway
        generic = await gateway.mutate("webhook.create", {"source": "generic"})
        variables = {
            "PUSHDEPLOY_WEBHOOK": f"https://gateway.example.com{generic['path']}",
            "PUSHDEPLOY_SECRET": generic["secret"],
        }
        one = World(net, place / "home", variables)
        await net.notify([await _notified(net)])
        for name in sorted(_images()):
            await one.push(name)
        await _set_up(one)
        yield one
        await gateway.stop()
        # All at once, which takes less than one by one.
        await one.sh("docker rm --force --volumes $(docker ps --all --quiet)")


def _logins() -> dict[str, str]:
    """Return the users that are printed, and their passwords; of several the first."""
    texts = [_COMMENT.sub("", block.text) for block in reversed(RUN)]
    return {user: password for text in texts for user, password in reversed(_LOGIN.findall(text))} | _MORE_LOGINS


def _images() -> set[str]:
    named = {one["dockerImage"] for block in JSON for one in examples(block.text) if one.get("dockerImage")}
    return named | {name for block in SCRIPTS for name in _PULLED.findall(block.text)}


async def _notified(net: Internet) -> NotificationEndpoint:
    """Let the registries be configured as it is printed."""
    (printed,) = [block for block in blocks() if block.name == "docs/distribution.md: notifications:"]
    made = await net.gateway.mutate("webhook.create", {"source": "distribution"})
    text = printed.text.replace("/webhooks/distribution/THE_TOKEN", made["path"]).replace("THE_SECRET", made["secret"])
    (endpoint,) = yaml.safe_load(text)["notifications"]["endpoints"]
    return NotificationEndpoint(endpoint["url"], endpoint["headers"])


async def _set_up(world: World) -> None:
    """Keep every login, and make an application of every example."""
    gateway = world.net.gateway
    for name, text in {"Dockerfile": _DOCKERFILE, "key.json": "{}"}.items():
        await asyncio.to_thread((world.place / name).write_text, text)
    for block in [*LOGINS, *FIRST]:
        await world.sh(block.text)
    key = {"name": "ci", "scope": "deploy", "applicationIds": [APPLICATION]}
    world.variables["DOKPLOY_API_KEY"] = (await gateway.mutate("user.createApiKey", key))["key"]
    row = await gateway.query("application.one", applicationId=APPLICATION)
    world.variables["REFRESH_TOKEN"] = row["refreshToken"]
    await gateway.mutate("application.create", {"name": "web", "applicationId": "web", "dockerImage": "nginx:alpine"})
    numbers = count()
    made: dict[str, Printed] = {}
    for block in JSON:
        for example in examples(block.text):
            if "dockerImage" in example and not needs_swarm(example):
                # The same example again is the same application.
                same = json.dumps(example, sort_keys=True)
                made[same] = made.get(same) or await _create(world, f"printed-{next(numbers)}", example)
                world.examples.setdefault(block, []).append(made[same])


def needs_swarm(example: dict[str, Any]) -> bool:
    return bool(example.get("replicas", 1) > 1)


async def _create(world: World, application_id: str, given: dict[str, Any]) -> Printed:
    body = {"name": "Printed", **given, "applicationId": application_id}
    await world.net.gateway.mutate("application.create", body)
    return Printed(application_id, given)
