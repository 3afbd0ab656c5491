"""The types of the schema are known to a connection without the long query of the driver."""

from datetime import UTC, datetime
from decimal import Decimal

from gateway.store.database import connect
from tests.support.api_client import Web

_OTHER_TYPES = """
    SELECT DISTINCT t.typname
      FROM (
           SELECT a.atttypid AS oid
             FROM pg_attribute a
             JOIN pg_class c ON c.oid = a.attrelid
            WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
            UNION
           SELECT unnest(coalesce(proallargtypes, proargtypes::oid[]) || prorettype)
             FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
           ) AS used
      JOIN pg_type t USING (oid)
      LEFT JOIN pg_type e ON e.oid = t.typelem
     WHERE t.typtype NOT IN ('b', 'e', 'p') OR e.typtype NOT IN ('b', 'e')
"""


async def test_the_schema_has_no_types_but_enums_those_of_postgresql_and_arrays(web: Web) -> None:
    others = await web.pool.fetch(_OTHER_TYPES)
    assert [row["typname"] for row in others] == []


async def test_enums_and_arrays_are_read_and_written(web: Web) -> None:
    at = datetime(2026, 11, 30, tzinfo=UTC)
    given = ("queued", ["failed", "running"], [True, False], [1, None], [at], [Decimal("1.5")], [{"a": 1}])
    types = ("status", "status[]", "bool[]", "int8[]", "timestamptz[]", "numeric[]", "jsonb[]")
    words = ", ".join(f"${number}::{name} AS c{number}" for number, name in enumerate(types, 1))
    row = await web.pool.fetchrow(f"SELECT {words}", *given)
    assert row is not None
    assert given == tuple(row)


async def test_an_unknown_type_costs_a_pool_one_short_question(web_postgres: str) -> None:
    async with connect(web_postgres) as pool, pool.acquire() as first, pool.acquire() as second:
        questions = []
        for connection in (first, second):
            await connection.fetchval("SELECT $1::verdict[]", ["queued"])
            prepared = await connection.fetch("SELECT statement FROM pg_prepared_statements")
            questions.append([row["statement"] for row in prepared if "$1::oid[]" in row["statement"]])
    (asked,), again = questions
    assert "RECURSIVE" not in asked
    assert again == []
