"""Write a small database for Trivy: `db/trivy.db`, a bbolt file, and `db/metadata.json`.

https://github.com/etcd-io/bbolt/blob/main/internal/common/page.go
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

#: A bucket: a value is bytes, or another bucket.
Bucket: TypeAlias = Mapping[str, "bytes | Bucket"]

_PAGE = 4096
_META, _LEAF, _FREELIST = 0x04, 0x02, 0x10
_MAGIC, _VERSION = 0xED0CDAED, 2


@dataclass(frozen=True, slots=True)
class Advisory:
    """A vulnerability of a package of Alpine 3.19; `fixed` is empty where no version has mended it."""

    cve: str
    package: str
    fixed: str = ""
    severity: str = "CRITICAL"
    title: str = ""


def write_database(cache: Path, *advisories: Advisory, updated: datetime | None = None, version: int = 2) -> None:
    """Write the database that Trivy reads below this cache directory."""
    updated = updated or datetime.now(UTC)
    packages: dict[str, dict[str, bytes]] = {}
    for one in advisories:
        packages.setdefault(one.package, {})[one.cve] = json.dumps({"FixedVersion": one.fixed}).encode()
    # In Trivy's table the details of a vulnerability have its severity.
    details = {
        one.cve: json.dumps({"Title": one.title or f"Flaw of {one.package}", "Severity": one.severity}).encode()
        for one in advisories
    }
    source = {"ID": "alpine", "Name": "Alpine Secdb", "URL": "https://secdb.alpinelinux.org/"}
    (cache / "db").mkdir(parents=True, exist_ok=True)
    (cache / "db" / "trivy.db").write_bytes(
        bolt(
            {
                "alpine 3.19": packages,
                "data-source": {"alpine 3.19": json.dumps(source).encode()},
                "vulnerability": details,
            }
        )
    )
    metadata = {
        "Version": version,
        "NextUpdate": (updated + timedelta(days=1)).isoformat(),
        "UpdatedAt": updated.isoformat(),
        "DownloadedAt": updated.isoformat(),
    }
    (cache / "db" / "metadata.json").write_text(json.dumps(metadata))


def bolt(root: Bucket) -> bytes:
    """Return a bbolt file with these buckets: each is one page, with as much overflow as it needs."""
    pages: list[bytes] = []  # from page 3 on, after two of meta and the list of free ones
    top = _write_bucket(root, pages)
    used = 3 + sum(len(one) for one in pages) // _PAGE
    free = struct.pack("<QHHI", 2, _FREELIST, 0, 0).ljust(_PAGE, b"\0")
    return b"".join([_meta(0, top, used), _meta(1, top, used), free, *pages])


def _meta(number: int, root: int, used: int) -> bytes:
    body = struct.pack("<IIIIQQQQQ", _MAGIC, _VERSION, _PAGE, 0, root, 0, 2, used, number)
    header = struct.pack("<QHHI", number, _META, 0, 0)
    return (header + body + struct.pack("<Q", _fnv(body))).ljust(_PAGE, b"\0")


def _write_bucket(bucket: Bucket, pages: list[bytes]) -> int:
    """Append the pages of a bucket, those below it first; return the number of its first page."""
    items = []
    for key, value in sorted((key.encode(), value) for key, value in bucket.items()):
        if isinstance(value, bytes):
            items.append((0, key, value))
        else:
            items.append((1, key, struct.pack("<QQ", _write_bucket(value, pages), 0)))
    elements, content = b"", b""
    for at, (flags, key, value) in enumerate(items):
        distance = 16 * (len(items) - at) + len(content)  # from the element to its key
        elements += struct.pack("<IIII", flags, distance, len(key), len(value))
        content += key + value
    number = 3 + sum(len(one) for one in pages) // _PAGE
    size = 16 + len(elements) + len(content)
    overflow = (size - 1) // _PAGE
    page = struct.pack("<QHHI", number, _LEAF, len(items), overflow) + elements + content
    pages.append(page.ljust((overflow + 1) * _PAGE, b"\0"))
    return number


def _fnv(text: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in text:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
