"""Describe a database's schema in lines that can be compared: each object by its name and definition."""

from gateway.store.database import Connection

_QUERIES = (
    """
    SELECT format('relation %s of kind %s', relname, relkind)
      FROM pg_class
     WHERE relnamespace = $1
    """,
    """
    SELECT format('column %s.%s %s %s default %s storage %s identity %s generated %s collation %s', relname, attname,
                  format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' ELSE 'null' END,
                  pg_get_expr(adbin, adrelid), attstorage, attidentity, attgenerated, attcollation::regcollation)
      FROM pg_attribute
      JOIN pg_class ON pg_class.oid = attrelid
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE relnamespace = $1 AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
    """,
    """
    SELECT format('constraint %s on %s: %s deferrable %s deferred %s validated %s', conname, conrelid::regclass,
                  pg_get_constraintdef(oid), condeferrable, condeferred, convalidated)
      FROM pg_constraint
     WHERE connamespace = $1
    """,
    "SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname::regnamespace = $1",
    """
    SELECT format('trigger on %s: %s enabled %s', tgrelid::regclass, pg_get_triggerdef(pg_trigger.oid), tgenabled)
      FROM pg_trigger
      JOIN pg_class ON pg_class.oid = tgrelid
     WHERE relnamespace = $1 AND NOT tgisinternal
    """,
    "SELECT format('function %s', pg_get_functiondef(oid)) FROM pg_proc WHERE pronamespace = $1",
    """
    SELECT format('type %s: %s', typname, array_agg(enumlabel::text ORDER BY enumsortorder))
      FROM pg_enum
      JOIN pg_type ON pg_type.oid = enumtypid
     WHERE typnamespace = $1
     GROUP BY typname
    """,
)


async def describe(connection: Connection) -> list[str]:
    """Return a line for each object of the schema `public`, sorted. The order of a table's columns is left out."""
    public = await connection.fetchval("SELECT 'public'::regnamespace::oid")
    found = [str(row[0]) for query in _QUERIES for row in await connection.fetch(query, public)]
    return sorted(found)
