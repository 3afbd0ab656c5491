"""Another master key, while everything runs.

Whoever seals with an older key could leave a secret behind that opens with that one alone. So nothing begins before all
who use the database seal with the new key, and it is gone through again until there is nothing left to do. Until then
both keys open: killed at any point, it is begun again and goes on.
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
    """Seal every secret with the key that seals; one in a file is replaced by a new one before.

    Raises Conflict where somebody is in the way, Unavailable where a secret opens with no key.
    """
    async with _rotation_lock(pool):
        await _require_same_key(pool, vault)
        if not isinstance(vault.keyring, KeyFile):
            return await _reencrypt_all(pool, vault)
        file, (before, *former) = vault.keyring, vault.keyring.own()
        new = secrets.token_bytes(KEY_BYTES)
        file.replace([new, before, *former])
        rotation = await _reencrypt_all(pool, vault)
        # The one before stays: somebody may have sealed with it just before, and not yet written that down.
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
                "encrypted with in GATEWAY_FORMER_MASTER_KEYS and try again, or set them anew"
            )
        if not progress.reencrypted:
            await _require_same_key(pool, vault)
            return Rotation(mark_of(vault.keyring.keys()[0]), done, progress.current)
    raise Unavailable("somebody keeps sealing with another key: see that all have the new one, and do this again")


async def _require_same_key(pool: Pool, vault: Vault) -> None:
    async with statement(pool) as connection:
        others = await sessions.select_marks(connection) - {vault.keyring.mark}
    if others:
        raise Conflict(
            "a gateway on this database seals with another key, and would not open what is sealed with this one: "
            "restart each with the new GATEWAY_MASTER_KEY, and the former one in GATEWAY_FORMER_MASTER_KEYS, "
            "then do this again"
        )


@asynccontextmanager
async def _rotation_lock(pool: Pool) -> AsyncIterator[None]:
    async with statement(pool) as connection:
        if not await sessions.try_rotation_lock(connection):
            raise Conflict("the master key is being rotated already: wait for that")
        try:
            yield
        finally:
            await sessions.release_rotation_lock(connection)
