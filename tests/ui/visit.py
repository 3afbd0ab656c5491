"""A person at a browser, and what holds so far."""

from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import BrowserContext, Page

from tests.ui.browser import Noted, sideways, violations
from tests.ui.world import World

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}
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
    "/adopt",
    "/inbox/hours",
)


@dataclass
class Visit:
    """A person at a browser, and what holds so far."""

    world: World
    context: BrowserContext
    page: Page
    noted: Noted
    shots: Path | None
    failed: list[str] = field(default_factory=list)

    def claim(self, text: str, *, holds: bool, detail: str = "") -> None:
        print(f"{'ok' if holds else 'FAILED'}  {text}{f': {detail}' if detail else ''}", flush=True)  # noqa: T201
        if not holds:
            self.failed.append(text)

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self.world.url}/dashboard{path}")

    async def shot(self, name: str, *, everywhere: bool = False) -> None:
        """Make a picture for the documents; `everywhere`: also in the dark, and on a phone."""
        if self.shots is None:
            return
        await self.page.screenshot(path=self.shots / f"{name}.png")
        if not everywhere:
            return
        await self.page.emulate_media(color_scheme="dark")
        await self.page.screenshot(path=self.shots / f"{name}-dark.png")
        await self.page.emulate_media(color_scheme="light")
        await self.page.set_viewport_size(PHONE)
        await self.page.screenshot(path=self.shots / f"{name}-phone.png")
        await self.page.set_viewport_size(DESK)

    async def sound(self, name: str) -> None:
        """Claim what holds of each page in each state."""
        found = await violations(self.page)
        self.claim(f"axe finds nothing on {name}", holds=not found, detail="; ".join(found[:3]))
        await self.page.emulate_media(color_scheme="dark")
        found = await violations(self.page)
        self.claim(f"axe finds nothing on {name}, dark", holds=not found, detail="; ".join(found[:3]))
        await self.page.emulate_media(color_scheme="light")
        await self.page.set_viewport_size(PHONE)
        wider = await sideways(self.page)
        self.claim(f"{name} fits on a phone", holds=wider <= 0, detail=f"{wider} px wider" if wider > 0 else "")
        await self.page.set_viewport_size(DESK)

    async def follow(self) -> None:
        """Wait until the page is live."""
        await self.page.wait_for_selector("#live:text-is('live')")
