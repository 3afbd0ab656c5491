"""A fragment is made once for all who see the same, and for nobody else."""

import asyncio
import re

import pytest

from gateway.model.api_keys import Grants, Permission
from gateway.store import overview
from tests.integration.dashboard.test_pages import signed_in
from tests.integration.dashboard.visitor import Page, Visitor
from tests.support.api_client import Web


async def fragment(visitor: Visitor, path: str, element: str) -> Page:
    return await visitor.get(f"/dashboard{path}", **{"HX-Request": "true", "HX-Target": element})


async def test_people_with_equal_rights_share_one(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    made, select_overview = 0, overview.select_overview

    async def counted(*given: object, **more: object) -> object:
        nonlocal made
        made += 1
        return await select_overview(*given, **more)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(overview, "select_overview", counted)
    await web.mutate("application.create", name="secret-app", dockerImage="acme/web:v1")
    other = await web.application("acme/other:v1")
    people = [await signed_in(web, Permission.READ) for _ in range(5)]
    shown = await asyncio.gather(*(fragment(one, "", "overview") for one in people))
    assert made == 1
    assert all("secret-app" in one.text for one in shown)
    restricted = await signed_in(web, Permission.READ, Grants(frozenset({other})))
    assert "secret-app" not in (await fragment(restricted, "", "overview")).text


async def test_a_form_in_a_fragment_is_of_the_session_that_asked(web: Web) -> None:
    application_id = await web.application("acme/web:v1")
    await web.mutate("application.deploy", applicationId=application_id)
    deployment_id = (await web.query("deployment.all", applicationId=application_id))[0]["deploymentId"]
    people = [await signed_in(web, Permission.DEPLOY) for _ in range(3)]
    path = f"/deployments/{deployment_id}"
    shown = await asyncio.gather(*(fragment(one, path, "deployment") for one in people))
    tokens = [re.findall(r'name="form" value="([0-9a-f.]+)"', one.text)[0] for one in shown]
    reader = await signed_in(web, Permission.READ)
    assert 'name="form"' not in (await fragment(reader, path, "deployment")).text
    fields = {"form": tokens[1], "deploymentId": deployment_id}
    assert (await people[0].post("/dashboard/call/deployment.cancel", fields)).status == 403
    assert (await people[1].post("/dashboard/call/deployment.cancel", fields)).status == 303
