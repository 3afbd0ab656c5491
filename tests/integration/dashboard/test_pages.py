"""What the pages show, to whom, and that nothing in them runs."""

import re

import pytest

from gateway.dashboard.formats import NOTHING
from gateway.model.api_keys import Grants, Permission
from gateway.model.deployments import Status
from gateway.model.errors import Code
from gateway.store import api_keys
from tests.integration.dashboard.visitor import PAGES, Visitor
from tests.support.api_client import Web
from tests.support.concluding import conclude

HOSTILE = "<script>alert(1)</script>\"'{{7*7}}"


@pytest.fixture
async def visitor(web: Web) -> Visitor:
    found = Visitor(web)
    await found.sign_in()
    return found


async def signed_in(web: Web, permission: Permission, grants: Grants | None = None) -> Visitor:
    async with web.pool.acquire() as connection:
        key, _ = await api_keys.insert_key(connection, "other", permission=permission, grants=grants)
    found = Visitor(web)
    assert (await found.sign_in(key)).status == 303
    return found


@pytest.mark.parametrize("path", PAGES)
async def test_each_page_forbids_scripts_frames_and_forms_of_others(visitor: Visitor, path: str) -> None:
    page = await visitor.get(f"/dashboard{path}")
    assert page.status == 200
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["Cache-Control"] == "no-store"
    assert "<style" not in page.text
    assert " style=" not in page.text
    assert " on" + "click=" not in page.text


async def test_script_in_a_stored_text_is_shown_as_text(visitor: Visitor) -> None:
    web = visitor.web
    made = await web.mutate("application.create", name=HOSTILE, description=HOSTILE, dockerImage="acme/web:v1")
    application_id = made["applicationId"]
    await web.mutate("webhook.create", source="generic", name=HOSTILE)
    await web.mutate("project.create", name=HOSTILE)
    await web.mutate("application.deploy", applicationId=application_id, title=HOSTILE)
    deployment = (await web.query("deployment.all", applicationId=application_id))[0]["deploymentId"]
    for path in (*PAGES, f"/applications/{application_id}", f"/deployments/{deployment}"):
        page = await visitor.get(f"/dashboard{path}")
        assert page.status == 200
        assert "<script>alert" not in page.text


async def test_what_a_gate_refused_can_be_let_pass_on_the_page_that_says_so(visitor: Visitor) -> None:
    web = visitor.web
    await web.mutate("application.deploy", applicationId=await web.application("acme/web"))
    await conclude(web, Status.FAILED, Code.GATE_REFUSED)
    (failed,) = [one["deploymentId"] for one in await web.query("deployment.allCentralized")]
    await web.pool.execute(
        "INSERT INTO gate_verdicts (deployment_id, gate_id, name, kind, rule_hash, repository, digest, spec_hash,"
        " verdict, code, message) VALUES ($1, 'g', 'scan', 'told', '', '', '', '', 'refused', 'gate_refused', 'no')",
        failed,
    )
    page = await visitor.get(f"/dashboard/deployments/{failed}")
    assert "Let this deployment pass" in page.text
    assert "gateway gates" not in page.text
    passed = await visitor.call("gate.override", deploymentId=failed, name="g", reason="it is urgent")
    (queued,) = [one["deploymentId"] for one in await web.query("deployment.allCentralized", state="queued")]
    assert (passed.status, passed.headers["Location"]) == (303, f"/dashboard/deployments/{queued}")


async def test_static_files_are_kept_for_ever_under_names_of_their_content(visitor: Visitor) -> None:
    page = await visitor.get("/dashboard")
    address = page.text.partition('src="')[2].partition('"')[0]
    file = await visitor.get(address)
    assert (file.status, file.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
    assert (await visitor.get(address.replace("/static/", "/static/0"))).status == 404


async def test_the_first_view_is_small(visitor: Visitor) -> None:
    page = await visitor.get("/dashboard")
    named = [part.partition('"')[0] for part in page.text.replace("href=", "src=").split('src="')[1:]]
    size = len(page.text)
    for address in {one for one in named if "/static/" in one}:
        file = await visitor.get(address, **{"Accept-Encoding": "gzip"})
        size += int(file.headers["Content-Length"])
    assert size < 100_000


async def test_a_key_that_reads_sees_no_value_and_no_button(web: Web) -> None:
    made = await web.mutate("application.create", name="web", dockerImage="acme/web:v1", env="PASSWORD=hunter2")
    reader = await signed_in(web, Permission.READ)
    page = await reader.get(f"/dashboard/applications/{made['applicationId']}")
    assert page.status == 200
    assert "hunter2" not in page.text
    assert "/dashboard/call/" not in page.text
    refused = await reader.call("application.deploy", applicationId=made["applicationId"])
    assert refused.status == 403
    assert await web.count("deployments") == 0
    assert (await reader.get("/dashboard/audit")).status == 403


async def test_a_restricted_key_sees_its_own_applications_alone(web: Web) -> None:
    own = (await web.mutate("application.create", name="own-app", dockerImage="acme/web:v1"))["applicationId"]
    other = (await web.mutate("application.create", name="other-app", dockerImage="acme/db:v1"))["applicationId"]
    for one in (own, other):
        await web.mutate("application.deploy", applicationId=one)
    restricted = await signed_in(web, Permission.ADMIN, Grants(frozenset({own})))
    page = await restricted.get("/dashboard")
    assert "own-app" in page.text
    assert "other-app" not in page.text
    assert (await restricted.get(f"/dashboard/applications/{own}")).status == 200
    assert (await restricted.get(f"/dashboard/applications/{other}")).status == 403
    assert (await restricted.get("/dashboard/deployments")).status == 200
    assert "other-app" not in (await restricted.get("/dashboard/deployments")).text
    assert (await restricted.get("/dashboard/keys")).status in {200, 403}


async def test_a_form_calls_the_procedure_and_goes_on(visitor: Visitor) -> None:
    page = await visitor.call("application.create", name="web", dockerImage="acme/web:v1")
    assert (page.status, page.headers["Location"]) == (303, "/dashboard")
    (made,) = await visitor.web.query("application.all")
    page = await visitor.call("application.deploy", applicationId=made["applicationId"], tag="v2")
    assert page.headers["Location"].startswith("/dashboard/deployments/")
    shown = await visitor.get(page.headers["Location"])
    assert "acme/web:v2" in shown.text


async def test_who_creates_an_application_is_led_to_its_page(visitor: Visitor) -> None:
    then = "/dashboard/applications/{applicationId}"
    page = await visitor.call("application.create", then=then, name="web", dockerImage="acme/web:v1")
    (made,) = await visitor.web.query("application.all")
    assert page.headers["Location"] == f"/dashboard/applications/{made['applicationId']}"
    assert (await visitor.get(page.headers["Location"])).status == 200


async def test_a_port_is_published_and_removed_on_the_page_of_an_application(visitor: Visitor) -> None:
    application_id = await visitor.web.application("acme/web:v1")
    here = f"/dashboard/applications/{application_id}"
    await visitor.call("port.create", then=here, applicationId=application_id, publishedPort="8000", targetPort="80")
    page = (await visitor.get(here)).text
    assert "<code>8000</code> → <code>80/tcp</code>" in page
    assert "<td>8000:80/tcp</td>" in page, "what the next deployment changes"
    port_id = re.findall(r'name="portId" value="([^"]+)"', page)[0]
    await visitor.call("port.delete", then=here, portId=port_id)
    assert "No port of it is published" in (await visitor.get(here)).text


async def test_an_application_is_moved_to_an_environment_of_another_project_on_its_page(visitor: Visitor) -> None:
    application_id = await visitor.web.application("acme/web:v1")
    here = f"/dashboard/applications/{application_id}"
    assert "targetEnvironmentId" not in (await visitor.get(here)).text, "there is one place alone"
    made = await visitor.web.mutate("project.create", name="shop")
    page = (await visitor.get(here)).text
    places = re.findall(r'<option value="([^"]+)"[^>]*>(?:Default|shop) / production', page)
    assert len(places) == 2
    await visitor.call("application.move", then=here, applicationId=application_id, targetEnvironmentId=places[1])
    moved = await visitor.web.query("application.one", applicationId=application_id)
    assert moved["environment"]["project"]["projectId"] == made["project"]["projectId"]


async def test_pushes_are_counted_by_the_hour_with_what_they_led_to(visitor: Visitor) -> None:
    await visitor.web.application("registry.example/web:v1")
    for name in ("web:v1", "nobody:v1", "nobody:v2"):
        await visitor.web.push(f"registry.example/{name}")
    page = (await visitor.get("/dashboard/inbox/hours")).text
    counted = [[int(number) for number in one.split()] for one in re.findall(r'data-values="(\d+ \d+)"', page)]
    assert len(counted) == 48
    assert [sum(each) for each in zip(*counted, strict=True)] == [3, 1]


async def test_the_audit_says_what_was_removed_and_leaves_out_what_never_was(visitor: Visitor) -> None:
    login = {"registryName": "mine", "registryUrl": "registry.example", "username": "u", "password": "secret"}
    made = await visitor.web.mutate("registry.create", **login)
    await visitor.web.mutate("registry.remove", registryId=made["registryId"])
    removed = (await visitor.get("/dashboard/audit?action=registry.remove")).text
    created = (await visitor.get("/dashboard/audit?action=registry.create")).text
    assert f"registry_url: registry.example → {NOTHING}" in removed
    assert f"registry_url: {NOTHING} → registry.example" in created
    for text in (removed, created):
        assert f"{NOTHING} → {NOTHING}" not in text


async def test_the_audit_tells_keys_of_one_name_apart(visitor: Visitor) -> None:
    made = [await visitor.web.mutate("user.createApiKey", name="ci") for _ in range(2)]
    text = (await visitor.get("/dashboard/audit")).text
    starts = {one["start"] for one in (await visitor.web.query("user.get"))["user"]["apiKeys"] if one["name"] == "ci"}
    assert len(made) == len(starts) == 2
    for start in starts:
        assert f">ci {start}…</option>" in text


async def test_the_audit_is_filtered_by_what_was_done_to_an_application_of_a_name(visitor: Visitor) -> None:
    web = visitor.web
    for name in ("one", "other"):
        made = await web.mutate("application.create", name=name, dockerImage="acme/web:v1")
        await web.mutate("application.update", applicationId=made["applicationId"], description=f"of {name}")
    page = (await visitor.get("/dashboard/audit?applicationId=one&action=application.update")).text
    assert page.partition("<main")[2].partition("</main>")[0].count("<tr>") == 2, "the head, and one row"
    assert "of one" in page
    assert "of other" not in page
    one = (await web.query("application.search", q="one"))["items"][0]["applicationId"]
    await web.mutate("application.deploy", applicationId=one)
    found = (await visitor.get("/dashboard/audit?applicationId=one&action=application.deploy")).text
    assert f'href="/dashboard/applications/{one}"' in found, (
        "what changes no row of the application is found by it, too"
    )
    assert "No entry matches." in (await visitor.get("/dashboard/audit?applicationId=nobody")).text
    assert (await visitor.get("/dashboard/audit?outcome=strange")).status == 400


async def test_an_error_of_a_form_says_what_to_do(visitor: Visitor) -> None:
    page = await visitor.call("application.deploy", applicationId="nobody")
    assert page.status == 404
    assert "Application not found" in page.text


async def test_what_the_pages_do_not_offer_cannot_be_called_by_a_form(visitor: Visitor) -> None:
    assert (await visitor.call("settings.getOpenApiDocument")).status == 403


async def test_a_secret_is_shown_once(visitor: Visitor) -> None:
    page = await visitor.call("webhook.create", then="/dashboard/webhooks", source="github", name="gh")
    assert page.status == 200
    assert "/webhooks/github/" in page.text
    assert "/webhooks/github/" not in (await visitor.get("/dashboard/webhooks")).text


async def test_the_exported_list_holds_no_formula(visitor: Visitor) -> None:
    made = await visitor.web.mutate("application.create", name="=1+1", dockerImage="acme/web:v1")
    await visitor.web.mutate("application.deploy", applicationId=made["applicationId"])
    page = await visitor.get("/dashboard/deployments.csv")
    assert ",'=1+1," in page.text
    asked = await visitor.get("/dashboard/deployments.csv", **{"HX-Request": "true", "HX-Target": "x"})
    assert asked.headers["Content-Type"].startswith("text/csv"), "a fragment is HTML, and this is none"


async def test_the_address_of_an_application_in_dokploy_leads_to_its_page(visitor: Visitor) -> None:
    page = await visitor.get("/dashboard/project/p/environment/e/services/application/app-123")
    assert (page.status, page.headers["Location"]) == (303, "/dashboard/applications/app-123")


async def test_the_overview_is_filtered_by_its_address(visitor: Visitor) -> None:
    for name in ("alpha", "beta"):
        await visitor.web.mutate("application.create", name=name, dockerImage=f"acme/{name}:v1")
    page = await visitor.get("/dashboard?q=ALPH")
    assert "alpha" in page.text
    assert ">beta<" not in page.text
    assert "No application matches" in (await visitor.get("/dashboard?state=healthy")).text
    assert ">alpha<" in (await visitor.get("/dashboard?server=-")).text
    assert (await visitor.get("/dashboard?page=99999999999999999999&state=x&q=%00")).status == 200


async def test_of_many_pages_a_page_links_to_the_first_the_last_and_those_around_it(visitor: Visitor) -> None:
    await visitor.web.mutate("application.create", name="first", dockerImage="acme/web:v1")
    await visitor.web.pool.execute(
        "INSERT INTO applications (application_id, name, app_name, environment_id)"
        " SELECT 'n' || n, 'n' || n, 'n' || n, (SELECT min(environment_id) FROM environments)"
        " FROM generate_series(1, 1000) n"
    )

    async def links(number: int) -> list[str]:
        below = (await visitor.get(f"/dashboard?page={number}")).text.partition("Applications: 1001")[2]
        return re.findall(r"(?<=page=)[0-9]+|…", below.partition("</p>")[0])

    assert await links(1) == ["2", "3", "4", "…", "11"]
    assert await links(7) == ["1", "…", "4", "5", "6", "8", "9", "10", "11"]


async def test_a_long_list_is_shown_page_by_page_and_its_filter_keeps_what_was_chosen(visitor: Visitor) -> None:
    pool = visitor.web.pool
    await pool.execute(
        "INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret, created_at)"
        " SELECT 'h' || n, 'harbor', 'hook ' || n || '.', n::text::bytea, '', now() + n * interval '1 second'"
        " FROM generate_series(1, 120) n"
    )
    await pool.execute(
        "INSERT INTO deliveries (endpoint_id, source, body, verdict) VALUES ('h3', 'harbor', '', 'ignored')"
    )
    first = (await visitor.get("/dashboard/webhooks")).text
    assert "hook 120." in first
    assert "hook 3." not in first
    (older,) = re.findall(r'href="(/dashboard/webhooks\?cursor=[^"]*)">Older', first)
    second = (await visitor.get(older)).text
    assert "hook 70." in second
    assert "hook 71." not in second
    assert "<td>hook 3.</td>" in (await visitor.get("/dashboard/inbox")).text
    chosen = (await visitor.get("/dashboard/inbox?endpointId=h3")).text
    assert '<option value="h3" selected>hook 3.</option>' in chosen


@pytest.mark.parametrize(
    ("status", "code", "log", "leads_to"),
    [
        (Status.FAILED, Code.EXITED, "no such file", "deployments/{}#last-lines"),
        (Status.FAILED, Code.EXITED, "", "applications/{}/log"),
        (Status.UNCHANGED, Code.UP_TO_DATE, "", "applications/{}"),
    ],
)
async def test_a_reason_leads_to_the_page_where_its_remedy_is(
    visitor: Visitor, status: Status, code: Code, log: str, leads_to: str
) -> None:
    """The last lines of a container that exited are its deployment's; the application's log is of what serves."""
    web = visitor.web
    application_id = await web.application("acme/web")
    await web.mutate("application.deploy", applicationId=application_id)
    await conclude(web, status, code, log=log)
    (ended,) = [one["deploymentId"] for one in await web.query("deployment.allCentralized")]
    page = (await visitor.get(f"/dashboard/deployments/{ended}")).text
    reason = page.partition('<div class="reason">')[2].partition("</div>")[0]
    address = leads_to.format(ended if log else application_id)
    assert re.findall('href="([^"]+)"', reason) == [f"/dashboard/{address}"]
    assert ('id="last-lines"' in page) == bool(log)


async def test_the_log_of_what_never_ran_says_why_it_is_empty(visitor: Visitor) -> None:
    """Also without JavaScript, and where the page goes on waiting for lines."""
    web = visitor.web
    application_id = await web.application("acme/web")
    here = f"/dashboard/applications/{application_id}"

    async def said() -> str:
        page = (await visitor.get(f"{here}/log")).text
        assert ("waiting for the first one" in page) != ("the container has ended" in page)
        return page.partition('<p id="log-none">')[2].partition("</p>")[0]

    assert "It was never deployed" in (never := await said())
    assert f'href="{here}"' in never
    await web.mutate("application.deploy", applicationId=application_id)
    (newest,) = [one["deploymentId"] for one in await web.query("deployment.allCentralized")]
    assert f'href="/dashboard/deployments/{newest}"' in (queued := await said())
    assert "is queued" in queued
    await conclude(web, Status.FAILED, Code.EXITED, log="no such file")
    assert f'href="/dashboard/deployments/{newest}#last-lines"' in (failed := await said())
    assert "its deployment failed" in failed
    await web.mutate("application.deploy", applicationId=application_id)
    await conclude(web)
    assert await said() == "", "a version ran"
