"""Stores signatures beside an image in a real registry, in the places where cosign stores them, by plain HTTP."""

import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from gateway.cli.demo.images import Image, Pusher, digest_of, push
from gateway.model.reference import Digest, Reference
from tests.support.signing import BUNDLE, ENVELOPE, SIMPLE, b64

MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}


@dataclass
class Signable:
    """An image in a registry, to which signatures can be attached. `reference` has its tag and its digest."""

    session: aiohttp.ClientSession
    reference: Reference

    @property
    def digest(self) -> Digest:
        assert self.reference.digest is not None
        return self.reference.digest

    @property
    def tag(self) -> str:
        return self.digest.replace(":", "-")

    def _pusher(self) -> Pusher:
        return Pusher(self.session, f"http://{self.reference.repository.domain}", None)

    async def _blob(self, content: bytes) -> dict[str, Any]:
        await self._pusher().push_blob(self.reference.repository.path, content)
        return {"digest": digest_of(content), "size": len(content)}

    async def put(self, tag: str, manifest: dict[str, Any], media_type: str = MANIFEST) -> dict[str, Any]:
        content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **manifest}).encode()
        named = Reference.parse(f"{self.reference.repository}:{tag}")
        digest = await self._pusher().put_manifest(named, content, media_type)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    async def add_to_tag(self, suffix: str, *layers: tuple[bytes, str, dict[str, str]]) -> None:
        """Store texts under the tag of cosign 2; each with its media type and annotations."""
        described = [
            {**await self._blob(content), "mediaType": kind, "annotations": annotations}
            for content, kind, annotations in layers
        ]
        config = {**await self._blob(b"{}"), "mediaType": "application/vnd.oci.image.config.v1+json"}
        await self.put(f"{self.tag}.{suffix}", {"config": config, "layers": described})

    async def sign(self, content: bytes, signature: bytes, **annotations: str) -> None:
        """Store one signature, as cosign 2 does."""
        own = {"dev.cosignproject.cosign/signature": b64(signature), **annotations}
        await self.add_to_tag("sig", (content, SIMPLE, own))

    async def attest(self, content: bytes, **annotations: str) -> None:
        """Store one envelope, as cosign 2 does."""
        own = {"dev.cosignproject.cosign/signature": "", **annotations}
        await self.add_to_tag("att", (content, ENVELOPE, own))

    async def referrer(
        self, content: bytes, kind: str = BUNDLE, subject: str | None = None, annotations: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Store a manifest that refers to the image, and return its descriptor."""
        _ = await self._blob(b"{}")
        layer = {**await self._blob(content), "mediaType": kind, "annotations": annotations or {}}
        about = {"mediaType": MANIFEST, "digest": subject or self.digest, "size": 2}
        name = f"referrer-{digest_of(content)[7:19]}"
        return await self.put(name, {"artifactType": kind, "config": EMPTY, "layers": [layer], "subject": about})

    async def list_referrers(self, *descriptors: dict[str, Any]) -> None:
        """Store the index that lists referrers where the registry has no API for that."""
        await self.put(self.tag, {"manifests": list(descriptors)}, INDEX)


async def pushed(session: aiohttp.ClientSession, address: str, path: str, version: str = "v1") -> Signable:
    """Push an image, and return it."""
    name = f"{address}/{path}:{version}"
    return Signable(session, Reference.parse(name).with_digest(await push(Image(version), name)))
