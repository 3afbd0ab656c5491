"""`make ui`: the whole journey in a real browser; a line for each claim, exit code 1 when one does not hold.

    first visit, sign-in, adopt, webhook, push, live rollout, bad push, roll back, inbox and replay, log, sign-out
    each page: axe finds nothing, nothing is wider than a phone, no policy is violated, no request goes elsewhere
    stored script in every text that is shown does not run; no other site can frame a page or send a form
    the network is cut, the tab is hidden, the gateway is killed: the page ends true without a reload by hand
    two gateways behind a balancer: a page of the one shows what the other does, and changes over to it

With `--shots FOLDER`, the pictures of the documents are made.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.ui.arriving import adopt, create, first_visit, webhook
from tests.ui.browser import Noted, chromium
from tests.ui.deploying import back, inbox, log, push
from tests.ui.lasting import interrupted, switch
from tests.ui.safe import everywhere, hostile, many, other_sites, sign_out
from tests.ui.visit import DESK, Visit
from tests.ui.world import world

#: milliseconds until what should be shown is missed; how fast it comes is a claim of its own
_PATIENCE = 120_000
_STEPS: tuple[Callable[[Visit], Awaitable[None]], ...] = (
    *(first_visit, adopt, create, webhook, push, back, inbox, log, everywhere),
    *(hostile, many, other_sites, interrupted, switch, sign_out),
)


async def run(shots: Path | None) -> bool:
    """Take all steps; return whether every claim holds."""
    with tempfile.TemporaryDirectory(prefix="gateway-ui-") as directory:
        async with world(Path(directory)) as made, chromium() as browser:
            context = await browser.new_context(viewport=DESK, reduced_motion="reduce")
            context.set_default_timeout(_PATIENCE)
            page, noted = await context.new_page(), Noted()
            noted.watch(page, made.url)
            visit = Visit(made, context, page, noted, shots)
            for step in _STEPS:
                try:
                    await step(visit)
                except Exception as error:
                    visit.claim(step.__name__, holds=False, detail=str(error)[:600])
                    await page.screenshot(path=f"build/ui-{step.__name__}.png")
            visit.claim(
                "no script failed, no policy was violated, no request went elsewhere",
                holds=not noted.problems,
                detail="; ".join(noted.problems[:5]),
            )
            defects = [line for line in made.gateway.log.read_text().splitlines() if '"level":"error"' in line]
            visit.claim("the gateway logged no defect", holds=not defects, detail="; ".join(defects[:2])[:1500])
            return not visit.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path)
    given = parser.parse_args()
    Path("build").mkdir(exist_ok=True)
    if given.shots is not None:
        given.shots.mkdir(parents=True, exist_ok=True)
    sys.exit(0 if asyncio.run(run(given.shots)) else 1)


if __name__ == "__main__":
    main()
