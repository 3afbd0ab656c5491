"""Tests that containers are exported as a declaration, which adopts them, and that nothing differs then."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.cli.demo.images import Image, push
from tests.integration.rollout.test_adoption_equivalence import OLD, placed, requests
from tests.support.adoption_host import Host
from tests.support.api_client import Web
from tests.support.declaring import Declaring

_EXAMPLES = int(os.environ.get("ADOPTION_EXAMPLES", "0"))
_NETWORK = "alike"


async def _exported(web: Web, host: Host) -> dict[str, Any]:
    """Return the declaration of what this host runs."""
    found = (await web.query("declaration.export", engine=True))["document"].get("applications", {})
    return {"applications": {name: form for name, form in found.items() if name in host.made}}


def _untouched(found: dict[str, Any]) -> tuple[Any, ...]:
    return found["Id"], found["Config"], found["HostConfig"], found["State"]["StartedAt"]


@pytest.mark.long
@settings(
    max_examples=_EXAMPLES or 1,
    derandomize=not _EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(bodies=st.lists(requests(), min_size=4, max_size=4))
async def test_what_runs_on_an_engine_is_exported_adopted_and_then_the_same(
    host: Host, web: Web, bodies: list[tuple[dict[str, Any], str, list[str]]]
) -> None:
    (own,) = web.rollouts.engines
    own.engine, own.error = host.engine, None
    declaring = Declaring(web)
    await push(Image("old", config=OLD), host.pushes.name())
    await host.network(_NETWORK, subnet="10.99.3.0/24")
    try:
        for number, body in enumerate(bodies):
            await host.run(f"{host.name}-{number}", **placed(*body, number))
        before = [_untouched(await host.inspect(name)) for name in host.made]
        document = await _exported(web, host)
        assert document["applications"].keys() == set(host.made)
        assert all(form["adopt"] == name for name, form in document["applications"].items())
        applied = await declaring.apply(document)
        assert {one["action"] for one in applied.values()} == {"created"}
        assert all(one["pending"] == [] for one in applied.values()), applied
        assert not (await declaring.plan(document))["differs"]
        assert await _exported(web, host) == document
        assert [_untouched(await host.inspect(name)) for name in host.made] == before
    finally:
        await host.clear()
        await web.empty("applications")
