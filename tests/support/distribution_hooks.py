"""A Distribution registry's notification, as it sends it, for tests that need to choose when and what it tells."""

import uuid
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from gateway.cli.demo.process import GatewayProcess
from gateway.model.reference import Digest, Reference


def envelope(name: str, digest: Digest, event_id: str | None = None) -> bytes:
    """Return the body that tells of a push of `name`."""
    reference = Reference.parse(name)
    repository = reference.repository
    event = {
        "id": event_id or str(uuid.uuid4()),
        "timestamp": "2026-11-20T10:00:00.000000000Z",
        "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "repository": repository.path,
            "url": f"http://{repository.domain}/v2/{repository.path}/manifests/{digest}",
            "tag": reference.tag,
        },
        "request": {"host": repository.domain, "method": "PUT", "useragent": "docker/28.0.1"},
    }
    return orjson.dumps({"events": [event]})


@dataclass
class Hook:
    """An endpoint of a gateway, and who posts to it."""

    gateway: GatewayProcess
    path: str
    secret: str

    @classmethod
    async def open(cls, gateway: GatewayProcess) -> "Hook":
        made = await gateway.endpoint("distribution")
        return cls(gateway, made["path"], made["secret"])

    async def post(self, body: bytes, session: aiohttp.ClientSession | None = None) -> tuple[int, dict[str, Any]]:
        if session is None:
            async with aiohttp.ClientSession() as own:
                return await self.post(body, own)
        headers = {
            "Authorization": f"Bearer {self.secret}",
            "Content-Type": "application/vnd.docker.distribution.events.v2+json",
        }
        async with session.post(f"{self.gateway.url}{self.path}", data=body, headers=headers) as answer:
            return answer.status, orjson.loads(await answer.read())
