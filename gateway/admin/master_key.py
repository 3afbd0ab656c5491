"""Rotate the master key while gateways run.

A gateway that still encrypts with the old key could add secrets that only that key decrypts. So the rotation starts
only when all gateways on the database use the new key, and repeats until no secret is left to re-encrypt. Both keys
decrypt meanwhile: a rotation that was interrupted is started again and continues.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.model.errors import Conflict, Unavailable
from gateway.store import reencryption, sessions
from gateway.store.database import Pool, statement
from gateway.store.encryption import KEY_BYTES, Vault, mark_of
from gateway.store.master_key_file import KeyFile

_MAX_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Rotation:
    """The result: `mark` names the key that encrypts all secrets now. The fields are published as JSON."""

    mark: str
    resealed: int
    secrets: int


async def rotate(pool: Pool, vault: Vault) -> Rotation:
    """Re-encrypt every secret with the current key. A key in a file is replaced with a new one first.

    Raises Conflict when another rotation runs or a gateway uses another key, Unavailable when no key decrypts a secret.
    """
    async with _rotation_lock(pool):
        await _require_same_key(pool, vault)
        if not isinstance(vault.keyring, KeyFile):
            return await _reencrypt_all(pool, vault)
        file, (before, *former) = vault.keyring, vault.keyring.own()
        new = secrets.token_bytes(KEY_BYTES)
        file.replace([new, before, *former])
        rotation = await _reencrypt_all(pool, vault)
        # Keep the previous key: a gateway may have encrypted with it, and not stored the result yet.
        file.replace([new, before])
        return rotation


async def _reencrypt_all(pool: Pool, vault: Vault) -> Rotation:
    done = 0
    for _ in range(_MAX_ROUNDS):
        progress = await reencryption.reencrypt(pool, vault)
        done += progress.reencrypted
        if progress.lost:
            raise Unavailable(
                f"no key decrypts {len(progress.lost)} secrets, {', '.join(progress.lost[:5])}: give the key they were "
                "encrypted with in GATEWAY_FORMER_MASTER_KEYS and try again, or set them again"
            )
        if not progress.reencrypted:
            await _require_same_key(pool, vault)
            return Rotation(mark_of(vault.keyring.keys()[0]), done, progress.current)
    raise Unavailable("a gateway keeps encrypting with another key: give all of them the new one, then try again")


async def _require_same_key(pool: Pool, vault: Vault) -> None:
    async with statement(pool) as connection:
        others = await sessions.select_marks(connection) - {vault.keyring.mark}
    if others:
        raise Conflict(
            "a gateway on this database encrypts with another key, and could not decrypt what this key encrypts: "
            "restart each with the new GATEWAY_MASTER_KEY, and the former one in GATEWAY_FORMER_MASTER_KEYS, "
            "then try again"
        )


@asynccontextmanager
async def _rotation_lock(pool: Pool) -> AsyncIterator[None]:
    async with statement(pool) as connection:
        if not await sessions.try_rotation_lock(connection):
            raise Conflict("another rotation of the master key is running: wait until it ends")
        try:
            yield
        finally:
            await sessions.release_rotation_lock(connection)
