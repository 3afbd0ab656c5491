"""The address of the running server: it stores it for commands that run in another shell."""

from gateway.store.database import Connection


async def update_serving(connection: Connection, *, public_url: str | None, listens: str) -> None:
    """Store the address; of several gateways, the last one that started wins."""
    await connection.execute(
        """
        INSERT INTO serving (public_url, listens) VALUES ($1, $2)
            ON CONFLICT (singleton) DO UPDATE
           SET public_url = excluded.public_url, listens = excluded.listens, since = now()
        """,
        public_url,
        listens,
    )


async def select_serving(connection: Connection) -> tuple[str | None, str | None]:
    """Return the public URL and the listener's URL, each None if unknown."""
    row = await connection.fetchrow("SELECT public_url, listens FROM serving")
    return (None, None) if row is None else (row["public_url"], row["listens"])
