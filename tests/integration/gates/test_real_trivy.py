"""The real Trivy with real troubles: full disks, bombs, logins, its server, its downloads, other gateways beside it."""

import asyncio
import gzip
import io
import os
import signal
import subprocess
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from gateway.cli.demo.process import free_port, until
from gateway.cli.demo.registry import private_registry
from gateway.gates import scan
from gateway.gates._process import Bounds
from gateway.gates.scan import Scans
from gateway.model.errors import Postponed
from gateway.model.gates import Verdict
from gateway.model.reference import Digest
from gateway.model.registries import Credentials, Login
from gateway.registry.client import RegistryClient
from gateway.store.database import Pool
from tests.integration.gates.test_vulnerabilities import PLANTED, TRIVY, Scanned, client, real_trivy, scanned
from tests.support.fake_internet import logins
from tests.support.scanned_images import alpine, archive, push_files, push_layer, push_manifest
from tests.support.trivy_database import Advisory, write_database

# Some scans of a large image, with low priority: on a busy machine minutes.
pytestmark = [pytest.mark.long, real_trivy, pytest.mark.timeout(900)]
__all__ = ["client", "scanned"]  # fixtures

MEGABYTE = 1024**2
# Trivy puts a file of more than 100 MB on the disk, and reads it there.
LARGE = 110 * MEGABYTE


async def push_large(scanned: Scanned) -> Digest:
    """Push an image whose list of packages is a large file."""
    files = alpine(openssl="3.1.4-r0")
    files["lib/apk/db/installed"] += b"\n" * LARGE
    return await push_layer(scanned.registry, scanned.path, archive(files))


@contextmanager
def a_small_disk(place: Path, megabytes: int) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
async def test_a_full_disk_leaves_the_verdict_unknown_until_there_is_space(scanned: Scanned) -> None:
    digest = await push_large(scanned)
    place = scanned.place / "scans"
    write_database(scanned.cache, PLANTED)
    with a_small_disk(place, 16):
        with pytest.raises(Postponed, match="the disk is full: free space in the data directory"):
            await scanned.ask(digest)
        assert _names(place) == []
        (place / "full").write_bytes(b"x" * (16 * MEGABYTE - 4096))
        os.utime(place / "full", (2e9, 2e9))
        with pytest.raises(Postponed, match=r"trivy (cannot be run|has given no report)"):
            await scanned.ask(digest)
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED


async def test_a_bomb_is_ended_at_the_bound_of_its_disk(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    write_database(scanned.cache, PLANTED)
    digest = await push_large(scanned)
    for bounds, why in (
        (partial(Bounds, disk=64 * MEGABYTE), r"it wrote more than 64 MB|file too large"),
        (partial(Bounds, memory=32 * MEGABYTE), "trivy has given no report"),
    ):
        monkeypatch.setattr(scan, "Bounds", bounds)
        with pytest.raises(Postponed, match=why):
            await scanned.ask(digest)
    monkeypatch.undo()
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED
    assert list((scanned.place / "scans").iterdir()) == []


async def test_a_trivy_that_is_killed_leaves_the_verdict_unknown_until_it_is_asked_again(scanned: Scanned) -> None:
    write_database(scanned.cache, PLANTED)
    digest = await push_large(scanned)
    asking = asyncio.create_task(scanned.ask(digest))
    os.kill(await until(lambda: _trivy_of(scanned)), signal.SIGKILL)
    with pytest.raises(Postponed, match="a signal ended it"):
        await asking
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED


def _names(place: Path) -> list[str]:
    return [one.name for one in place.iterdir()]


async def _trivy_of(scanned: Scanned) -> int | None:
    """Return the process that scans for this test, once it runs."""
    return await asyncio.to_thread(_find_trivy, str(scanned.cache))


def _find_trivy(cache: str) -> int | None:
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            if link.readlink() == TRIVY and cache in (link.parent / "cmdline").read_text():
                return int(link.parent.name)
        except OSError:
            continue
    return None


async def test_gateways_that_scan_one_image_at_once_agree(scanned: Scanned) -> None:
    write_database(scanned.cache, PLANTED)
    digest = await scanned.push(openssl="3.1.4-r0")
    gateways = [replace(scanned, scans=Scans()) for _ in range(4)]
    decisions = await asyncio.gather(*(one.ask(digest) for one in gateways))
    assert {one.verdict for one in decisions} == {Verdict.REFUSED}
    assert await scanned.pool.fetchval("SELECT count(*) FROM scan_reports WHERE digest = $1", digest) == 1


async def test_a_private_image_is_scanned_with_its_login(
    scanned: Scanned, tmp_path: Path, web_pool: Pool, client: RegistryClient
) -> None:
    password = 'pass,word "1"'
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(await logins({"robot": password}))
    write_database(scanned.cache, PLANTED)
    async with private_registry(tmp_path / "private", free_port(), htpasswd=htpasswd) as registry:
        there = replace(scanned, registry=registry.address, path="acme/private")
        login = aiohttp.encode_basic_auth("robot", password)
        digest = await push_files(registry.address, there.path, alpine(openssl="3.1.4-r0"), authorization=login)
        with pytest.raises(Postponed, match=f"{registry.address} denies"):
            await there.ask(digest)
        with pytest.raises(Postponed, match=f"{registry.address} denies"):
            await there.ask(digest, login=Login(Credentials("robot", "wrong")))
        decision = await there.ask(digest, login=Login(Credentials("robot", password)))
    assert decision.verdict is Verdict.REFUSED


def _packed(cache: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("trivy.db", "metadata.json"):
            tar.add(cache / "db" / name, name)
    return gzip.compress(packed.getvalue())


async def test_the_database_is_downloaded_from_where_the_setting_says(scanned: Scanned) -> None:
    digest = await scanned.push(openssl="3.1.4-r0")
    scanned.settings["GATEWAY_TRIVY_DATABASE"] = f"{scanned.registry}/{scanned.path}/db:2"
    with pytest.raises(Postponed, match=r"no database in .*; the gateway downloads it from .*, which has failed: "):
        await scanned.ask(digest)
    with pytest.raises(Postponed, match="which failed a moment ago"):
        await scanned.ask(digest)
    scanned.scans.download_after = 0.0
    write_database(scanned.place / "published", PLANTED)
    blobs = {
        "application/vnd.aquasec.trivy.config.v1+json": b"{}",
        "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip": _packed(scanned.place / "published"),
    }
    kind = "application/vnd.oci.image.manifest.v1+json"
    await push_manifest(scanned.registry, f"{scanned.path}/db", "2", blobs, kind)
    asked = await asyncio.gather(*(scanned.ask(digest) for _ in range(3)), return_exceptions=True)
    assert any(not isinstance(one, BaseException) and one.verdict is Verdict.REFUSED for one in asked)
    assert (await scanned.ask(digest)).verdict is Verdict.REFUSED


@asynccontextmanager
async def a_server(cache: Path, address: str) -> AsyncIterator[None]:
    words = (TRIVY, "--cache-dir", cache, "--quiet", "server", "--listen", address, "--skip-db-update")
    process = await asyncio.create_subprocess_exec(*words)

    async def listens() -> bool | None:
        try:
            _, writer = await asyncio.open_connection(*address.split(":"))
        except OSError:
            return None
        writer.close()
        return True

    try:
        await until(listens)
        yield
    finally:
        process.kill()
        await process.wait()


async def test_a_server_has_the_database_for_its_gateways(scanned: Scanned) -> None:
    digest, address = await scanned.push(openssl="3.1.4-r0"), f"127.0.0.1:{free_port()}"
    scanned.settings["GATEWAY_TRIVY_SERVER"] = f"http://{address}"
    with pytest.raises(Postponed, match=f"the Trivy server at http://{address}: it does not answer"):
        await scanned.ask(digest)
    write_database(scanned.place / "server", PLANTED)
    async with a_server(scanned.place / "server", address):
        decision = await scanned.ask(digest)
    assert decision.verdict is Verdict.REFUSED
    assert not (scanned.cache / "db").exists()


async def test_java_archives_need_their_index_and_the_message_says_so(scanned: Scanned) -> None:
    write_database(scanned.cache)
    archive_ = io.BytesIO()
    with zipfile.ZipFile(archive_, "w") as jar:
        jar.writestr("Main.class", "x")
    digest = await scanned.push(files={"app.jar": archive_.getvalue()})
    with pytest.raises(Postponed, match="set GATEWAY_TRIVY_JAVA_DATABASE"):
        await scanned.ask(digest)


async def test_names_that_an_image_gives_its_packages_do_nothing(scanned: Scanned) -> None:
    evil = "\x1b]0;own\x07<script>\u202e--help"
    write_database(scanned.cache, Advisory("CVE-2026-9", evil, fixed="2-r0", title=evil))
    decision = await scanned.ask(await push_files(scanned.registry, scanned.path, alpine(**{evil: "1-r0"})))
    assert decision.verdict is Verdict.REFUSED
    assert decision.message.isprintable()
    assert all(text.isprintable() for text in decision.evidence["worst"][0].values())
