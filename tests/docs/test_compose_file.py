"""compose.yaml: its steps give nothing away, and what it starts can work as it is."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "there-already-and-open"])
def test_the_secrets_that_its_steps_write_are_their_owners_alone(tmp_path: Path, *, there: bool) -> None:
    if there:
        (tmp_path / ".env").touch(mode=0o644)
    steps = [line for line in re.findall(r"^#   (.+)$", TEXT, re.MULTILINE) if not line.startswith("docker compose")]
    subprocess.run(["sh", "-c", "umask 022\n" + "\n".join(steps)], cwd=tmp_path, check=False, capture_output=True)
    assert re.fullmatch(
        r"GATEWAY_MASTER_KEY=[A-Za-z0-9+/]{43}=\nPOSTGRES_PASSWORD=[0-9a-f]{48}\nDOCKER_GID=\d*\n",
        (tmp_path / ".env").read_text(),
    )
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", [".gitignore", ".dockerignore"])
def test_the_secrets_are_taken_along_by_nothing(name: str) -> None:
    assert ".env" in (ROOT / name).read_text(encoding="utf-8").split(os.linesep)


def test_what_may_write_nowhere_has_a_place_for_temporary_files() -> None:
    read_only = [service for service in SERVICES.values() if service.get("read_only")]
    assert read_only
    assert all("/tmp" in service.get("tmpfs", []) for service in read_only)
