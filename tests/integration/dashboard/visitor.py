"""A browser without a screen: it keeps cookies, and sends forms with their tokens."""

import re
from dataclasses import dataclass, field
from typing import Any

from tests.support.api_client import Web

_TOKEN = re.compile(r'name="form" value="([0-9a-f.]+)"')
PAGES = (
    "",
    "/deployments",
    "/approvals",
    "/releases",
    "/inbox",
    "/webhooks",
    "/registries",
    "/servers",
    "/alerts",
    "/keys",
    "/projects",
    "/audit",
    "/inbox/hours",
)


@dataclass
class Page:
    """What was answered."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Visitor:
    """A person; signed in after `sign_in`."""

    web: Web
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Page:
        return await self._send("GET", path, None, headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Page:
        return await self._send("POST", path, fields, headers)

    async def sign_in(self, key: str | None = None) -> Page:
        return await self.post("/dashboard/sign-in", {"key": key or self.web.key})

    async def token(self, path: str = "") -> str:
        """Return the token of the forms of a page."""
        found = _TOKEN.search((await self.get(f"/dashboard{path}")).text)
        assert found is not None
        return found[1]

    async def call(self, procedure: str, then: str = "/dashboard", **fields: str) -> Page:
        """Send a form of a page."""
        return await self.post(f"/dashboard/call/{procedure}", {"form": await self.token(), "then": then, **fields})

    async def _send(self, method: str, path: str, fields: dict[str, str] | None, headers: dict[str, str]) -> Page:
        sent: dict[str, Any] = {**headers}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self.web.client.request(method, path, data=fields, headers=sent, allow_redirects=False) as answer:
            for name, morsel in answer.cookies.items():
                self.cookies[name] = morsel.value
            return Page(answer.status, dict(answer.headers), await answer.text())
