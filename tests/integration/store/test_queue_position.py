"""The positions of queued deployments, read at once."""

from gateway.store import deployments, queue_position
from tests.support.api_client import Web

FILL = """
    INSERT INTO projects (project_id, name) VALUES ('p', 'p');
    INSERT INTO environments (environment_id, project_id, name) VALUES ('v', 'p', 'v');
    INSERT INTO servers (server_id, name, host) VALUES ('s', 's', 'tcp://127.0.0.1:1');
    INSERT INTO engines (engine_id, name, version, platform) VALUES ('x', 'x', '1', 'p'), ('y', 'y', '1', 'p');
    INSERT INTO applications (application_id, name, app_name, environment_id, server_id, engine_id)
    SELECT 'q' || n, 'q' || n, 'q' || n, 'v', CASE WHEN n % 5 = 0 THEN 's' END,
           (ARRAY['x', 'y', NULL])[1 + n % 3]
      FROM generate_series(1, 24) n;
    INSERT INTO deployments (deployment_id, application_id, kind, forced, title, reference, next_attempt_at)
    SELECT 'd' || n, 'q' || n, 'deploy', false, '', 'docker.io/acme/web', now() + n * 7 % 11 * interval '1 minute'
      FROM generate_series(1, 24) n;
"""
BEFORE = """
    SELECT d.deployment_id, (
           SELECT count(*)
             FROM deployments w
             JOIN applications o USING (application_id)
            WHERE w.status = 'queued' AND o.server_id IS NOT DISTINCT FROM a.server_id
              AND (o.engine_id IS NULL OR a.engine_id IS NULL OR o.engine_id = a.engine_id)
              AND (w.next_attempt_at, w.created_at, w.deployment_id)
                < (d.next_attempt_at, d.created_at, d.deployment_id)) AS before
      FROM deployments d
      JOIN applications a USING (application_id)
"""


async def test_a_position_counts_those_before_that_may_go_to_the_same_engine(web: Web) -> None:
    async with web.pool.acquire() as connection:
        filled = connection.transaction()
        await filled.start()
        await connection.execute(FILL)
        found = [await deployments.select_deployment(connection, f"d{number}") for number in range(1, 25)]
        waits = await queue_position.select_waits(connection, found)
        before = {row["deployment_id"]: row["before"] for row in await connection.fetch(BEFORE)}
        assert {name: wait.position - 1 for name, wait in waits.items()} == before
        assert await queue_position.select_wait(connection, found[7]) == waits["d8"]
        await filled.rollback()


async def test_a_deployment_that_is_claimed_while_it_is_read_does_not_wait_for_itself(web: Web) -> None:
    await web.mutate("application.create", name="web", applicationId="6fa", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="6fa")
    async with web.pool.acquire() as connection:
        (row,) = await connection.fetch("SELECT deployment_id FROM deployments")
        queued = await deployments.select_deployment(connection, row["deployment_id"])
        await connection.execute(
            "UPDATE deployments SET status = 'running', claimed_by = 'g', lease_length = '1 min',"
            " lease_until = now() + interval '1 min', started_at = now()"
        )
        wait = await queue_position.select_wait(connection, queued)
    assert wait == queue_position.Wait(1, "a free slot on the engine")
