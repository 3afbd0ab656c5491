"""deploy/pushdeploy.service: systemd accepts it, and it is as closed as docs/install.md says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deploy/pushdeploy.service").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/install.md").read_text(encoding="utf-8")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here."""
    path = tmp_path / "pushdeploy.service"
    path.write_text(TEXT.replace("/opt/pushdeploy/bin/gateway", "/bin/true"), encoding="utf-8")
    return path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_unit_and_finds_it_as_closed_as_the_page_says(unit: Path) -> None:
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", rated.stdout)
    assert found is not None, rated.stderr
    assert float(found[1]) <= float(re.findall(r"an exposure of ([\d.]+)", PAGE)[0])


def test_the_unit_keeps_its_secret_out_of_the_environment_and_ends_after_the_gateway_has() -> None:
    assert "GATEWAY_MASTER_KEY_FILE=%d/master-key" in TEXT
    assert "GATEWAY_MASTER_KEY=" not in TEXT
    assert "KillMode=mixed" in TEXT
    stop = re.findall(r"TimeoutStopSec=(\d+)", TEXT)
    assert int(stop[0]) > 20 + 30  # GATEWAY_SHUTDOWN_GRACE, then putting back


def test_the_unit_has_its_data_where_commands_of_root_look() -> None:
    from gateway import installation

    assert f"GATEWAY_DATA_DIR={installation._OF_MACHINE}\n" in TEXT  # noqa: SLF001 - what is compared
    assert "StateDirectory=pushdeploy\n" in TEXT
