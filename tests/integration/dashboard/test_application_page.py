"""What the page of an application says of what runs, and what going back to a version would change."""

from typing import Any

import pytest

from gateway.dashboard.image_labels import read_labels
from gateway.model.adoption import AdoptedSpec
from gateway.model.api_keys import Permission
from gateway.model.reference import Digest
from gateway.store import applications
from gateway.store.database import transaction
from tests.integration.dashboard.test_pages import signed_in
from tests.integration.dashboard.visitor import Visitor
from tests.support.api_client import VAULT, Web
from tests.support.served_versions import record_version

OLD, NEW = Digest("sha256:" + "0a" * 32), Digest("sha256:" + "0b" * 32)


@pytest.fixture
async def visitor(web: Web) -> Visitor:
    found = Visitor(web)
    await found.sign_in()
    return found


async def serve(web: Web, application_id: str, digest: Digest) -> str:
    """Record that a deployment of the application as it is brought this digest; return its id."""
    await web.mutate("application.redeploy", applicationId=application_id)
    async with transaction(web.pool) as connection:
        deployment_id: str = await connection.fetchval(
            """
            UPDATE deployments
               SET status = 'succeeded', started_at = now(), finished_at = now(), digest = $2, replaced = true,
                   spec_hash = $2
             WHERE application_id = $1 AND status = 'queued'
            RETURNING deployment_id
            """,
            application_id,
            digest,
        )
        ran = await applications.select_application(connection, VAULT, application_id)
        await record_version(connection, deployment_id, ran)
    return deployment_id


async def test_a_way_back_says_what_it_changes_before_it_is_taken(visitor: Visitor) -> None:
    web = visitor.web
    env = "MODE=old\nTOKEN=hunter2"
    made = await web.mutate("application.create", name="web", dockerImage="acme/web:v1", env=env)
    application_id = made["applicationId"]
    first = await serve(web, application_id, OLD)
    await web.mutate("application.saveEnvironment", applicationId=application_id, env="MODE=new\nTOKEN=hunter3")
    await serve(web, application_id, NEW)
    here = f"/dashboard/applications/{application_id}"
    page = (await visitor.get(here)).text
    assert f"{here}/back/{first}" in page
    assert f"<code>{NEW}</code>" in page, "what serves"
    shown = await visitor.get(f"{here}/back/{first}")
    assert "MODE changed" in shown.text
    assert str(OLD) in shown.text
    assert str(NEW) in shown.text
    assert "hunter" not in shown.text
    sent = await visitor.call("application.rollback", applicationId=application_id, deploymentId=first)
    assert sent.headers["Location"].startswith("/dashboard/deployments/")
    reader = await signed_in(web, Permission.READ)
    assert "/dashboard/call/" not in (await reader.get(f"{here}/back/{first}")).text.partition("<main")[2]
    assert (await visitor.get(f"{here}/back/unknown")).status == 404


async def adopt(web: Web, *, is_service: bool = False) -> str:
    """Return an application with what an engine reports of an adopted container or service."""
    application_id = await web.application("acme/web:v1")
    ports = {"8080/tcp": [{"HostIp": "", "HostPort": "80"}]}
    found: dict[str, Any] = {
        "Id": "c" * 64,
        "Name": "/web",
        "Config": {"Hostname": "c" * 12, "Env": ["TOKEN=hunter2"], "Labels": {}},
        "HostConfig": {"NetworkMode": "default", "PortBindings": ports, "Binds": ["/srv:/data"], "Mounts": None},
        "NetworkSettings": {"Networks": {}},
        "Mounts": [],
    }
    if is_service:
        found = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "acme/web:v1"}}}
    image = f"docker.io/acme/web:v1@{OLD}"
    base = AdoptedSpec(found, "c" * 64, image, "sha256:" + "d" * 64, is_service=is_service)
    async with web.pool.acquire() as connection:
        await applications.update_application(connection, VAULT, application_id, {"base": base.dump()})
    return application_id


async def test_the_page_shows_what_an_adopted_container_keeps(visitor: Visitor) -> None:
    application_id = await adopt(visitor.web)
    here = f"/dashboard/applications/{application_id}"
    text = (await visitor.get(here)).text
    for kept in ("TOKEN", "8080/tcp", "/data", "acme/web:v1"):
        assert f"<code>{kept}</code>" in text
    assert "hunter" not in text
    for untrue in ("No variables.", "No port of it is published"):
        assert untrue not in text
    assert f"{here}/back/adopted" not in text, "it serves as it was adopted"
    service = await adopt(visitor.web, is_service=True)
    assert "that the service was adopted with" in (await visitor.get(f"/dashboard/applications/{service}")).text


async def test_the_page_leads_back_to_what_was_adopted(visitor: Visitor) -> None:
    application_id = await adopt(visitor.web)
    here = f"/dashboard/applications/{application_id}"
    await serve(visitor.web, application_id, NEW)
    assert f"{here}/back/adopted" in (await visitor.get(here)).text
    shown = await visitor.get(f"{here}/back/adopted")
    assert str(OLD) in shown.text
    sent = await visitor.call("application.rollback", applicationId=application_id, deploymentId="adopted")
    queued, *_ = await visitor.web.query("deployment.all", applicationId=application_id)
    assert sent.headers["Location"] == f"/dashboard/deployments/{queued['deploymentId']}"
    assert (queued["kind"], queued["rollsBackTo"]) == ("rollback", None)
    never_adopted = await visitor.web.application("acme/other:v1")
    assert (await visitor.get(f"/dashboard/applications/{never_adopted}/back/adopted")).status == 404


async def test_the_page_says_that_pushes_deploy_nothing_and_lets_them(visitor: Visitor) -> None:
    application_id = await visitor.web.application("acme/web:v1")
    await visitor.web.mutate("application.update", applicationId=application_id, autoDeploy=False)
    here = f"/dashboard/applications/{application_id}"
    said = "Pushes do not deploy it"
    assert said in (await visitor.get(here)).text
    await visitor.call("application.update", here, applicationId=application_id, autoDeploy="true")
    assert said not in (await visitor.get(here)).text


async def test_what_serves_is_known_after_many_failures(visitor: Visitor) -> None:
    application_id = await visitor.web.application("acme/web:v1")
    await serve(visitor.web, application_id, OLD)
    async with visitor.web.pool.acquire() as connection:
        await connection.execute(
            """
            INSERT INTO deployments (application_id, kind, forced, status, title, reference, started_at, finished_at)
            SELECT $1, 'deploy', false, 'failed', 'Push', 'docker.io/acme/web:v1', now(), now() + n * interval '1 s'
              FROM generate_series(1, 25) AS n
            """,
            application_id,
        )
    here = f"/dashboard/applications/{application_id}"
    assert f"<code>{OLD}</code>" in (await visitor.get(here)).text
    times = (await visitor.get(f"{here}/times")).text
    assert times.count("data-at=") == 26
    listed = await visitor.get(f"/dashboard/deployments?application={application_id}&state=succeeded")
    assert listed.text.count('<tr id="row-') == 1
    assert (await visitor.get("/dashboard/deployments?state=failed&q=nothing")).text.count('<tr id="row-') == 0
    exported = await visitor.get(f"/dashboard/deployments.csv?application={application_id}&state=failed")
    assert exported.text.count("\n") == 26
    assert (await visitor.get("/dashboard/deployments?state=nonsense")).status == 400


@pytest.mark.parametrize(
    ("source", "revision", "leads_to"),
    [
        ("https://github.com/acme/web.git", "a" * 40, "https://github.com/acme/web/commit/" + "a" * 40),
        ("https://gitlab.com/acme/web", "abcdef1", "https://gitlab.com/acme/web/-/commit/abcdef1"),
        ("https://git.example/acme/web", "a" * 40, None),
        ("https://github.com/acme/web", "../../evil", None),
        ("javascript:alert(1)", "a" * 40, None),
        ("https://user@evil.example/x", "a" * 40, None),
        ("https://github.com\n.evil.example/", "a" * 40, None),
        ("https://[", "a" * 40, None),
    ],
)
async def test_the_labels_of_an_image_are_links_only_to_http(source: str, revision: str, leads_to: str | None) -> None:
    prefix = "org.opencontainers.image."
    labels = read_labels({f"{prefix}source": source, f"{prefix}revision": revision, f"{prefix}version": "1.2"})
    found = {one.name: one for one in labels}
    assert found["revision"].address == leads_to
    assert (found["source"].text, found["revision"].text, found["version"].text) == (source, revision, "1.2")
    assert all(one.address is None or one.address.startswith("https://") for one in labels)
    if "evil.example" in source or source.startswith("javascript"):
        assert found["source"].address is None
