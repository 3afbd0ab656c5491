"""What a backup contains: its contents, then each table's rows as PostgreSQL's COPY writes them.

A record is its kind (one byte), its length (4 bytes) and that many bytes: `C` contents (JSON), `T` a table begins
(JSON), `D` some of its rows (compressed), `E` it ends (their number, JSON), `Z` the backup ends.
"""

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from gateway.model.errors import InvalidInput
from gateway.store.sealed_file import SealedWriter

_AT_ONCE: Final = 256 * 1024  # bytes of rows in a record
_HEAD: Final = 5
_QUICKLY: Final = 1  # zlib's level
_UNPACKED: Final = 1024**2  # bytes of rows at once, however well they were compressed


@dataclass(frozen=True, slots=True)
class Applied:
    """A line of the ledger of migrations."""

    number: int
    name: str
    sha256: str
    expands: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup says of itself, sealed: the migrations of its schema, and the keys that open its secrets."""

    schema: tuple[Applied, ...]
    keys: tuple[bytes, ...] = field(repr=False)

    def to_json(self) -> bytes:
        ledger = [[one.number, one.name, one.sha256, one.expands] for one in self.schema]
        return json.dumps({"schema": ledger, "keys": [b64encode(key).decode() for key in self.keys]}).encode()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        found = json.loads(text)
        return cls(tuple(Applied(*one) for one in found["schema"]), tuple(map(b64decode, found["keys"])))


@dataclass(frozen=True, slots=True)
class Table:
    """A table's rows begin."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some of its rows, as COPY writes them as text."""

    text: bytes


@dataclass(frozen=True, slots=True)
class TableEnd:
    """All of its rows were there."""

    rows: int


Record = Contents | Table | Rows | TableEnd


class RecordWriter:
    """Writes records into a sealed file."""

    def __init__(self, file: SealedWriter) -> None:
        self._file = file
        self._held = bytearray()

    def write_contents(self, contents: Contents) -> None:
        self._write(b"C", contents.to_json())

    def begin_table(self, table: Table) -> None:
        self._write(b"T", json.dumps({"name": table.name, "columns": table.columns}).encode())

    async def write_rows(self, text: bytes) -> None:
        """Take what COPY sends; asynchronous as asyncpg asks for."""
        self._held += text
        if len(self._held) >= _AT_ONCE:
            self._flush()

    def end_table(self, rows: int) -> None:
        self._flush()
        self._write(b"E", json.dumps(rows).encode())

    def finish(self) -> None:
        self._write(b"Z", b"")
        self._file.finish()

    def _flush(self) -> None:
        if self._held:
            self._write(b"D", zlib.compress(bytes(self._held), _QUICKLY))
            self._held.clear()

    def _write(self, kind: bytes, content: bytes) -> None:
        self._file.write(kind + len(content).to_bytes(4, "big") + content)


def read_records(chunks: Iterable[bytes]) -> Iterator[Record]:
    """Yield the records; raises InvalidInput where they do not end as they should."""
    held, ended = bytearray(), False
    for chunk in chunks:
        held += chunk
        at = 0
        while len(held) - at >= _HEAD:
            length = int.from_bytes(held[at + 1 : at + _HEAD], "big")
            if ended or len(held) - at - _HEAD < length:
                break
            kind, content = bytes(held[at : at + 1]), bytes(held[at + _HEAD : at + _HEAD + length])
            at += _HEAD + length
            if kind == b"Z":
                ended = True
            elif kind == b"D":
                yield from _unpack(content)
            else:
                yield _parse(kind, content)
        del held[:at]
    if held or not ended:
        raise InvalidInput("the backup does not end as it should")


def _unpack(content: bytes) -> Iterator[Rows]:
    """Yield the rows of a record in parts; the end of a part is not that of a row."""
    unpacking = zlib.decompressobj()
    try:
        while text := unpacking.decompress(unpacking.unconsumed_tail or content, _UNPACKED):
            content = b""
            yield Rows(text)
    except zlib.error as error:
        raise InvalidInput(f"the backup has rows that cannot be read: {error}") from error
    if not unpacking.eof or unpacking.unused_data:
        raise InvalidInput("the backup has rows that do not end as they should")


def _parse(kind: bytes, content: bytes) -> Record:
    try:
        if kind == b"C":
            return Contents.parse(content)
        found: Any = json.loads(content)
        if kind == b"T":
            return Table(found["name"], tuple(found["columns"]))
        if kind == b"E":
            return TableEnd(int(found))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidInput(f"the backup has a record {kind!r} that cannot be read: {error}") from error
    raise InvalidInput(f"the backup has a record of an unknown kind {kind!r}: use a newer version")
