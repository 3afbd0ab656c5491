"""Apply declarations as the command line does: plan, then one object after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.model.declared.objects import spec_at
from gateway.model.declared.secrets import UNCHANGED, dotted, secret_paths
from tests.support.api_client import Web


def made_up(document: Mapping[str, Any]) -> dict[str, str]:
    """Return a value for each secret that a declaration does not leave unchanged."""
    return {
        dotted(path): f"{dotted(path).rpartition('.')[2]}-secret"
        for path, where in secret_paths(document)
        if where != UNCHANGED
    }


@dataclass
class Declaring:
    """Plans and applies declarations over the API."""

    web: Web
    key: str | None = None
    secrets: dict[str, str] = field(default_factory=dict)

    async def call(self, procedure: str, given: Mapping[str, Any]) -> tuple[int, Any]:
        headers = {"x-api-key": self.key} if self.key else {}
        status, answer = await self.web.post(f"/api/{procedure}", dict(given), **headers)
        return status, answer

    async def call_query(self, procedure: str) -> Any:
        headers = {"x-api-key": self.key or self.web.key}
        async with self.web.client.get(f"/api/{procedure}", headers=headers) as answer:
            return await answer.json()

    async def plan(self, document: Mapping[str, Any], **options: Any) -> Any:
        secrets = {**made_up(document), **self.secrets}
        status, answer = await self.call("declaration.plan", {"document": document, "secrets": secrets, **options})
        assert status == 200, answer
        return answer

    async def apply_one(
        self, document: Mapping[str, Any], planned: Mapping[str, Any], **options: Any
    ) -> tuple[int, Any]:
        """Apply one object of a plan."""
        path = planned["path"]
        prefix = f"{dotted(tuple(path))}."
        secrets = {**made_up(document), **self.secrets}
        given = {
            "declaration": document.get("declaration", "default"),
            "path": path,
            "spec": None if planned["action"] == "removed" else spec_at(document, path),
            "secrets": {name.removeprefix(prefix): one for name, one in secrets.items() if name.startswith(prefix)},
            "version": planned["version"],
            **options,
        }
        return await self.call("declaration.apply", given)

    async def apply(self, document: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Plan and apply all that differs; return the answers by dotted path."""
        done = {}
        for planned in (await self.plan(document, **options))["objects"]:
            assert planned["error"] is None, planned
            if planned["action"] != "unchanged":
                status, answer = await self.apply_one(document, planned)
                assert status == 200, (planned, answer)
                done[dotted(tuple(planned["path"]))] = answer
        return done
