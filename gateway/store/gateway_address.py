"""Where the gateway that serves is reached: it writes it down, since a command may run in another shell."""

from gateway.store.database import Connection


async def update_serving(connection: Connection, *, public_url: str | None, listens: str) -> None:
    """Write down what holds now; of several gateways the one that started last."""
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
    """Return its public address, and where it listens; None where it has none, or has never served."""
    row = await connection.fetchrow("SELECT public_url, listens FROM serving")
    return (None, None) if row is None else (row["public_url"], row["listens"])
