"""The storage that every command needs, without the parts of a server, so that a command starts fast."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.config import Settings
from gateway.model.errors import InvalidInput
from gateway.store import database
from gateway.store.embedded_postgres import embedded_postgres
from gateway.store.encryption import FixedKeys, Keyring, Vault
from gateway.store.master_key_file import KeyFile
from gateway.store.migrate import migrate, require_current
from gateway.store.sessions import session_name


@dataclass(frozen=True, slots=True)
class Storage:
    """The migrated database, and the vault that decrypts its secrets."""

    pool: database.Pool
    vault: Vault
    settings: Settings


@asynccontextmanager
async def open_pool(settings: Settings, *, name: str = "gateway") -> AsyncIterator[database.Pool]:
    """Open the database, or the embedded one if none is set. Raises Unavailable."""
    async with AsyncExitStack() as stack:
        if settings.database_url is None:
            url = await stack.enter_async_context(embedded_postgres(settings.data_dir))
        else:
            url = settings.database_url.get_secret_value()
        yield await stack.enter_async_context(database.connect(url, size=settings.database_connections, name=name))


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """Open and migrate the database, and open the vault. Raises Unavailable or InvalidInput."""
    async with _open(settings) as storage:
        await migrate(storage.pool)
        yield storage


@asynccontextmanager
async def open_current_storage(settings: Settings, *, on_empty: Callable[[], None]) -> AsyncIterator[Storage]:
    """Open the database without migrating it, and the vault; `on_empty` is called before an empty one gets its schema.

    Raises Unavailable, also for a schema of another version, or InvalidInput.
    """
    async with _open(settings) as storage:
        await require_current(storage.pool, on_empty=on_empty)
        yield storage


@asynccontextmanager
async def open_unmigrated_storage(settings: Settings) -> AsyncIterator[Storage]:
    """Open the database of whatever schema, and the vault. Raises Unavailable or InvalidInput."""
    async with _open(settings) as storage:
        yield storage


@asynccontextmanager
async def open_for_restore(settings: Settings) -> AsyncIterator[Storage]:
    """Open the database, and the vault without making a key. Raises Unavailable or InvalidInput."""
    keyring = _keyring(settings, creates=False)
    async with open_pool(settings) as pool:
        yield Storage(pool, Vault(keyring), settings)


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[Storage]:
    keyring = _keyring(settings)
    async with open_pool(settings, name=session_name(keyring.mark)) as pool:
        yield Storage(pool, Vault(keyring), settings)


def _keyring(settings: Settings, *, creates: bool = True) -> Keyring:
    former = settings.former_keys()
    if (key := settings.key()) is not None:
        return FixedKeys(key, tuple(former))
    if settings.database_url is None:
        keyring = KeyFile(settings.data_dir / "master.key", former)
        if creates:
            keyring.keys()
        return keyring
    raise InvalidInput(
        "GATEWAY_DATABASE_URL needs GATEWAY_MASTER_KEY, which encrypts the secrets in that database. "
        "Create one and keep it safe: openssl rand -base64 32"
    )
