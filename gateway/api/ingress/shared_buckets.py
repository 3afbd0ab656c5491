"""The levels of token buckets, in memory that all processes of a gateway share.

The memory is a table of fixed size without a file, and ends with its processes. Each set of eight rows has a lock of
fcntl(2), which the kernel releases when the process that holds it is killed. When a set is full, a new bucket replaces
the least recently used one, which then begins anew as a full bucket.
"""

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

_SETS, _WAYS = 4096, 8
_ROW = struct.Struct("=Qdd")  # key (0: none), level, and the time of that level by the machine's monotonic clock
_SET_BYTES = _ROW.size * _WAYS


class SharedBuckets:
    """The table, on a descriptor that other processes inherit."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rows = mmap.mmap(descriptor, _SETS * _SET_BYTES)

    @classmethod
    def create(cls) -> "SharedBuckets":
        """Create an empty table."""
        descriptor = os.memfd_create("buckets")
        os.ftruncate(descriptor, _SETS * _SET_BYTES)
        return cls(descriptor)

    def take(self, name: str, rate: float, capacity: float) -> float:
        """Take one token; return 0, or the seconds until there is one."""
        with self._row(name, capacity) as (key, at, held, filled_at):
            now = time.monotonic()
            level = min(held + (now - filled_at) * rate, capacity)
            taken = level >= 1
            _ROW.pack_into(self._rows, at, key, level - taken, now)
        return 0.0 if taken else (1 - level) / rate

    def lower(self, name: str, level: float) -> None:
        """Lower the level of the bucket to `level`, if it is higher."""
        with self._row(name, level) as (key, at, held, filled_at):
            _ROW.pack_into(self._rows, at, key, min(held, level), filled_at)

    @contextmanager
    def _row(self, name: str, capacity: float) -> Iterator[tuple[int, int, float, float]]:
        """Lock the bucket, and yield its key, the offset of its row in bytes, its level and the time of the level."""
        key = int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()) or 1
        start = key % _SETS * _SET_BYTES
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, _SET_BYTES, start)
        try:
            rows = [(at, *_ROW.unpack_from(self._rows, at)) for at in range(start, start + _SET_BYTES, _ROW.size)]
            found = next((row for row in rows if row[1] == key), None)
            if found is None:
                oldest, *_ = min(rows, key=lambda row: row[3])
                yield key, oldest, capacity, time.monotonic()
            else:
                yield key, found[0], found[2], found[3]
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, _SET_BYTES, start)

    def close(self) -> None:
        self._rows.close()
        os.close(self.descriptor)
