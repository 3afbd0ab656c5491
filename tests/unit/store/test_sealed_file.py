"""A sealed file opens with its passphrase, as it was written; anything else is refused."""

import io
import os
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.model.errors import InvalidInput
from gateway.store import backup_records, sealed_file
from gateway.store.backup import in_order, open_backup, require_passphrase
from gateway.store.backup_records import Applied, Contents, Record, RecordWriter, Rows, Table, TableEnd, read_records
from gateway.store.sealed_file import SealedReader, SealedWriter

CHUNK = 64
SEALED = CHUNK + 16
SECRET = "correct horse battery"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, and a key without its cost."""
    monkeypatch.setattr(sealed_file, "_CHUNK", CHUNK)
    monkeypatch.setattr(sealed_file, "_derived", lambda word, salt: AESGCM((word.encode() + salt + b"0" * 32)[:32]))
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def write(content: bytes, **header: object) -> bytes:
    file = _Bytes()
    sealed = SealedWriter(file, SECRET, header)
    for at in range(0, len(content), 7):
        sealed.write(content[at : at + 7])
    sealed.finish()
    return file.getvalue()


class _Bytes(io.BytesIO):
    def fileno(self) -> int:
        return 0


def read(held: bytes, passphrase: str = SECRET) -> bytes:
    reader = SealedReader.of(io.BytesIO(held))
    reader.unlock(passphrase)
    return b"".join(reader.chunks())


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_was_written_is_read(length: int) -> None:
    content = bytes(range(256))[:length]
    held = write(content)
    assert read(held) == content
    assert len(content) < CHUNK or content[:20] not in held


def test_a_byte_changed_anywhere_is_refused() -> None:
    held = write(b"x" * 3 * CHUNK, version="1")
    for at in range(len(held)):
        for bit in (1, 128):
            changed = bytearray(held)
            changed[at] ^= bit
            with pytest.raises(InvalidInput):
                read(bytes(changed))


def test_a_file_that_ends_early_or_late_is_refused() -> None:
    held = write(b"x" * 3 * CHUNK)
    for length in range(len(held)):
        with pytest.raises(InvalidInput):
            read(held[:length])
    for more in (b"x", held[-SEALED:], b"x" * SEALED):
        with pytest.raises(InvalidInput, match="damaged"):
            read(held + more)


def test_chunks_that_were_exchanged_or_left_out_are_refused() -> None:
    held = write(bytes(range(4)) * CHUNK)
    front = len(held) - 4 * SEALED
    chunks = [held[at : at + SEALED] for at in range(front, len(held), SEALED)]
    for one, two in pairwise(range(4)):
        exchanged = list(chunks)
        exchanged[one], exchanged[two] = exchanged[two], exchanged[one]
        for others in (exchanged, [*chunks[:one], *chunks[one + 1 :]], [*chunks[:two], *chunks[one:]]):
            with pytest.raises(InvalidInput, match="damaged"):
                read(held[:front] + b"".join(others))


def test_a_chunk_of_another_file_is_refused() -> None:
    one, other = write(b"x" * 2 * CHUNK), write(b"y" * 2 * CHUNK)
    with pytest.raises(InvalidInput, match="damaged"):
        read(one[:-SEALED] + other[-SEALED:])


def test_another_passphrase_another_file_and_a_newer_format_are_named() -> None:
    held = write(b"x")
    with pytest.raises(InvalidInput, match="the passphrase is not the one"):
        read(held, "another one entirely")
    with pytest.raises(InvalidInput, match="not a backup"):
        read(b"PGDMP" + held)
    with pytest.raises(InvalidInput, match=r"format 2, and this version reads format 1: .*'9\.0'"):
        read(write(b"x", format=2, version="9.0"))


async def test_records_are_read_as_they_were_written() -> None:
    contents = Contents((Applied(1, "0001_schema.sql", "ab", expands=True),), (b"k" * 32, b"l" * 32))
    assert "kkk" not in repr(contents)
    file = _Bytes()
    out = RecordWriter(SealedWriter(file, SECRET, {}))
    out.write_contents(contents)
    out.begin_table(Table("one", ("a", "b")))
    await out.write_rows(b"1\t2\n3\t4\n")
    out.end_table(2)
    out.finish()
    reader = SealedReader.of(io.BytesIO(file.getvalue()))
    reader.unlock(SECRET)
    chunks = list(reader.chunks())
    expected = [contents, Table("one", ("a", "b")), Rows(b"1\t2\n3\t4\n"), TableEnd(2)]
    assert list(read_records(chunks)) == expected
    assert list(read_records(bytes([byte]) for byte in b"".join(chunks))) == expected
    whole = b"".join(chunks)
    for wrong in (whole[:-1], whole + b"Z\0\0\0\0", b"?\0\0\0\0" + whole, b"T\0\0\0\x01{" + whole):
        with pytest.raises(InvalidInput):
            list(read_records([wrong]))


def test_rows_take_little_memory_however_well_they_were_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_records, "_UNPACKED", 1000)
    packed = zlib.compress(b"1\t2\n" * 100_000)

    def records(content: bytes) -> list[Record]:
        return list(read_records([b"D" + len(content).to_bytes(4, "big") + content + b"Z\0\0\0\0"]))

    parts = [one.text for one in records(packed) if isinstance(one, Rows)]
    assert b"".join(parts) == b"1\t2\n" * 100_000
    assert max(map(len, parts)) == 1000
    for wrong in (packed[:-1], packed + b"x", b"x" + packed, b""):
        with pytest.raises(InvalidInput, match="the backup has rows that"):
            records(wrong)


def test_what_can_be_read_only_once_is_refused_and_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(InvalidInput, match="not a file on a disk"):
            open_backup(path)


def test_tables_come_after_those_that_they_refer_to() -> None:
    assert in_order({"c": ["b"], "a": [], "b": ["a"]}) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="circle"):
        in_order({"a": ["b"], "b": ["a"]})


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 12"):
        require_passphrase("hunter2")
