"""The webhooks of an application, by what its newest deployments came from."""

from gateway.store import serving
from tests.support.api_client import Web


async def test_of_a_deployment_that_many_deliveries_joined_only_a_few_are_looked_at(web: Web) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.pool.execute(
        """
        INSERT INTO endpoints (endpoint_id, source, name, token_hash, secret)
        SELECT name, 'dockerhub', name, sha256(name::bytea), ''
          FROM (SELECT d || '-' || n AS name FROM generate_series(1, 2) AS d, generate_series(1, 9) AS n) AS named;
        INSERT INTO deployments (deployment_id, application_id, kind, status, title, forced, reference, created_at,
                                 finished_at)
        SELECT n, 'app', 'deploy', 'superseded', '', false, 'acme/web', now() + n * interval '1 second', now()
          FROM generate_series(1, 2) AS n;
        INSERT INTO deliveries (delivery_id, endpoint_id, source, received_at, headers, body, verdict)
        SELECT endpoint_id, endpoint_id, 'dockerhub', now(), '{}', '', 'queued' FROM endpoints;
        INSERT INTO deployment_deliveries (deployment_id, delivery_id)
        SELECT split_part(delivery_id, '-', 1), delivery_id FROM deliveries
        """
    )
    async with web.pool.acquire() as connection:
        found = await serving.select_feeds(connection, "app", each=4)
        newest = await serving.select_feeds(connection, "app", newest=1, each=4)
    assert [one.endpoint_id[0] for one in sorted(found, key=lambda one: one.endpoint_id)] == ["1"] * 4 + ["2"] * 4
    assert [one.endpoint_id[0] for one in newest] == ["2"] * 4
