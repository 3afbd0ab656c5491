"""What the page of an application says of what runs, and what going back to a version would change."""

import pytest

from gateway.dashboard.image_labels import read_labels
from gateway.model.api_keys import Permission
from gateway.model.reference import Digest
from gateway.store import applications, versions
from gateway.store.database import transaction
from tests.integration.dashboard.test_pages import signed_in
from tests.integration.dashboard.visitor import Visitor
from tests.support.api_client import VAULT, Web

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
        await versions.update_version(connection, VAULT, deployment_id, ran)
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
