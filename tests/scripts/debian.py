"""Debian file trees made here, for images whose base no registry can be asked for. One is made once, and kept."""

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build/debian"


async def run(*words: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command and return what it printed; raises RuntimeError with what it said."""
    process = await asyncio.create_subprocess_exec(
        *words,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        stdout=-1,
        stderr=-1,
        stdin=asyncio.subprocess.DEVNULL,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(words[:8])}: {err.decode()[-3000:]}{out.decode()[-3000:]}")
    return out.decode().strip()


async def tree(name: str, packages: Sequence[str], suite: str = "bookworm") -> Path:
    """Return a tar of a small Debian with these packages, from the mirror that this machine uses.

    `make clean` removes those that are kept.
    """
    kept = KEPT / f"{name}.tar"
    if kept.exists():
        return kept
    with tempfile.TemporaryDirectory(prefix="gateway-debian-") as place:
        debian = f"{place}/debian"
        await _make(debian, packages, suite)
        await asyncio.to_thread(KEPT.mkdir, parents=True, exist_ok=True)
        await run("tar", "-C", debian, "-cf", f"{kept}.new", ".")
    await asyncio.to_thread(Path(f"{kept}.new").rename, kept)
    return kept


async def directory(suite: str, packages: Sequence[str]) -> Path:
    """Return a directory with a small Debian of this suite, with these packages. It is kept too."""
    kept = KEPT / suite
    if kept.exists():
        return kept
    await asyncio.to_thread(KEPT.mkdir, parents=True, exist_ok=True)
    await run("rm", "-rf", f"{kept}.new")
    await _make(f"{kept}.new", packages, suite)
    await asyncio.to_thread(Path(f"{kept}.new").rename, kept)
    return kept


async def _make(place: str, packages: Sequence[str], suite: str) -> None:
    targets = await run("apt-get", "indextargets", "--format", "$(REPO_URI)")
    mirror, script = targets.splitlines()[0], Path("/usr/share/debootstrap/scripts")
    # A newer suite is made as the newest that debootstrap here knows.
    with_script = () if await asyncio.to_thread((script / suite).exists) else (str(script / "sid"),)
    await run("debootstrap", "--variant=minbase", suite, place, mirror, *with_script)
    chosen = 'APT::Install-Recommends "0";\nAcquire::Check-Valid-Until "0";\n'
    (Path(place) / "etc/apt/apt.conf.d/99chosen").write_text(chosen, encoding="utf-8")
    # Whoever has another directory for temporary files does not have it in there.
    inside = {"DEBIAN_FRONTEND": "noninteractive", "TMPDIR": "/tmp"}
    await run("chroot", place, "apt-get", "update", "-qq", environment=inside)
    await run("chroot", place, "apt-get", "install", "-y", "-qq", *packages, environment=inside)
    await run("chroot", place, "apt-get", "clean")


async def python() -> Path:
    """Return the tree that the gateway's image stands on here."""
    return await tree("python", ("python3", "python3-venv", "ca-certificates"))
