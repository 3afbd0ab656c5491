"""Gates, approvals and releases on the pages: what a person decides there is what the API decides."""

import html
import re

import pytest

from gateway.model.api_keys import Permission
from gateway.model.gates import Verdict
from tests.integration.dashboard.visitor import Visitor
from tests.support.api_client import Web
from tests.support.approving import Asking, a_key

ONE = {"count": 1, "approvers": ["ann"], "deadline": "3d"}


@pytest.fixture
async def asking(web: Web) -> Asking:
    await web.mutate("application.create", name="Shop", applicationId="app", dockerImage="acme/web:v1")
    await web.push("acme/web:v1")
    return Asking(web.pool, ONE)


async def ann(web: Web) -> Visitor:
    key, _ = await a_key(web.pool, "ann", Permission.DEPLOY)
    found = Visitor(web)
    await found.sign_in(key)
    return found


async def test_an_approval_on_the_page_is_for_the_digest_that_was_shown(web: Web, asking: Asking) -> None:
    await asking.ask()
    visitor = await ann(web)
    page = await visitor.get("/dashboard/approvals")
    assert "Shop" in page.text
    assert str(asking.digest) in page.text
    approval_id = await asking.open_id()
    stale = await visitor.call("approval.approve", approvalId=approval_id, digest="sha256:" + "0" * 64)
    assert stale.status == 409
    assert (await asking.ask()).verdict is Verdict.UNKNOWN
    done = await visitor.call("approval.approve", "/dashboard/approvals", approvalId=approval_id, digest=asking.digest)
    assert (done.status, done.headers["Location"]) == (303, "/dashboard/approvals")
    assert (await asking.ask()).verdict is Verdict.PASSED
    assert "Nothing waits for an approval" in (await visitor.get("/dashboard/approvals")).text


async def test_an_approval_is_found_however_many_others_wait(web: Web, asking: Asking) -> None:
    await asking.ask()
    await web.mutate("application.create", name="Other", applicationId="other", dockerImage="acme/other:v1")
    await web.pool.execute(
        """
        INSERT INTO approvals
        SELECT (jsonb_populate_record(a, jsonb_build_object(
                   'approval_id', 'later' || n, 'gate_id', 'g' || n, 'application_id', 'other', 'created_at', now()))).*
          FROM approvals a, generate_series(1, 60) AS n
        """
    )
    key, _ = await a_key(web.pool, "bob", Permission.DEPLOY, only=frozenset({"app"}))
    bob, visitor = Visitor(web), await ann(web)
    await bob.sign_in(key)
    assert "Shop" in (await bob.get("/dashboard/approvals")).text
    first = await visitor.get("/dashboard/approvals")
    assert "Shop" not in first.text
    older = re.search(r'href="(/dashboard/approvals[?]cursor=[^"]+)"', first.text)
    assert older is not None
    assert "Shop" in (await visitor.get(html.unescape(older[1]))).text


async def test_a_group_is_released_by_its_button(web: Web) -> None:
    ids = [await web.application(f"acme/{name}:v1") for name in ("one", "two")]
    members = [{"applicationId": one, "wave": number + 1} for number, one in enumerate(ids)]
    group = await web.mutate("group.create", name="shop", members=members)
    visitor = Visitor(web)
    await visitor.sign_in()
    assert "Release shop" in (await visitor.get("/dashboard/releases")).text
    assert (await visitor.call("release.create", groupId=group["groupId"])).status == 303
    (release,) = await web.query("release.all")
    page = await visitor.get(f"/dashboard/releases/{release['releaseId']}")
    assert page.status == 200
    assert "Cancel" in page.text


async def test_an_application_shows_the_gates_that_it_inherits(web: Web) -> None:
    application_id = await web.application("acme/web:v1")
    rule = {"age": "3d"}
    await web.mutate("gate.create", applicationId=application_id, kind="maturity", name="old-enough", rule=rule)
    visitor = Visitor(web)
    await visitor.sign_in()
    page = await visitor.get(f"/dashboard/applications/{application_id}")
    assert "old-enough" in page.text
