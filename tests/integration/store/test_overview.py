"""The list of all applications, filtered by what was observed of them; and how much of a long one is read."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.model.observations import STALE_AFTER, State
from gateway.store import lookup, overview
from gateway.store.overview import OverviewFilter
from tests.support.api_client import Web

MANY = 3000  # applications: enough that the planner prefers an index
FILL = f"""
    SET LOCAL session_replication_role = replica;  -- nobody audits this
    INSERT INTO projects (project_id, name) VALUES ('p', 'p');
    INSERT INTO environments (environment_id, project_id, name) VALUES ('v', 'p', 'v');
    INSERT INTO applications (application_id, name, app_name, environment_id)
    SELECT 'a' || n, 'A' || n, 'a' || n, 'v' FROM generate_series(1, {MANY}) n;
    INSERT INTO observations (application_id, state) SELECT application_id, 'running' FROM applications;
"""
ANALYZE = "ANALYZE applications, observations"


class Planned:
    """A connection that keeps the plan of each statement that it runs."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plans = ""

    async def _explain(self, statement: str, *given: Any) -> None:
        for row in await self._connection.fetch(f"EXPLAIN {statement}", *given):
            self.plans += f"{row[0]}\n"

    async def fetch(self, statement: str, *given: Any) -> Any:
        await self._explain(statement, *given)
        return await self._connection.fetch(statement, *given)

    async def fetchval(self, statement: str, *given: Any) -> Any:
        await self._explain(statement, *given)
        return await self._connection.fetchval(statement, *given)


@pytest.fixture
async def filled(web: Web) -> AsyncIterator[Any]:
    """A connection in a transaction that has many applications, all of which run."""
    async with web.pool.acquire() as connection:
        change = connection.transaction()
        await change.start()
        await connection.execute(FILL)
        yield connection
        await change.rollback()


async def shown(connection: Any, state: str) -> dict[str, State | None]:
    """Return the states of all that a filter shows, by id."""
    rows, total = await overview.select_overview(
        connection, OverviewFilter(state=state), only=None, limit=MANY, offset=0
    )
    assert total == len(rows)
    return {row.application_id: row.observed for row in rows}


async def test_a_filter_shows_what_is_in_that_state_now(filled: Any) -> None:
    stored = [one for one in State if one is not State.UNKNOWN]
    for number, state in enumerate(stored):
        change = """
            UPDATE observations SET state = $2::text::observed, observed_at = now() - $3::interval
             WHERE application_id = $1
        """
        await filled.execute(change, f"a{number + 1}", state, STALE_AFTER * 0.9)
        await filled.execute(change, f"a{number + 101}", state, STALE_AFTER)
    await filled.execute("DELETE FROM observations WHERE application_id = 'a1000'")
    everything = await shown(filled, "")
    assert len(everything) == MANY
    for wanted in State:
        assert await shown(filled, wanted) == {name: one for name, one in everything.items() if one is wanted}
    assert await shown(filled, "none") == {"a1000": None}
    well = {State.RUNNING, State.HEALTHY, State.STOPPED, None}
    assert await shown(filled, "trouble") == {name: one for name, one in everything.items() if one not in well}


async def test_of_many_applications_only_those_in_trouble_are_read(filled: Any) -> None:
    await filled.execute("UPDATE observations SET state = 'unhealthy' WHERE application_id IN ('a7', 'a77')")
    await filled.execute(ANALYZE)
    planned = Planned(filled)
    wanted = OverviewFilter(state="trouble")
    rows, total = await overview.select_overview(planned, wanted, only=None, limit=100, offset=0)  # type: ignore[arg-type]  # as much of a connection as is used
    assert ([row.application_id for row in rows], total) == (["a7", "a77"], 2)
    assert "Seq Scan on observations" in planned.plans
    assert "Seq Scan on applications" not in planned.plans


async def test_the_first_of_many_applications_are_found_without_the_others(filled: Any) -> None:
    await filled.execute("UPDATE applications SET name = 'a0' WHERE application_id = 'a9'")
    await filled.execute(ANALYZE)
    planned = Planned(filled)
    found = await lookup.select_beginning(planned, lookup.Noun.APPLICATION, "", 3)  # type: ignore[arg-type]  # likewise
    assert [one.name for one in found] == ["a0", "A1", "A10"]
    assert "applications_by_name" in planned.plans
