"""How the pinned Python packages are installed."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile"])
def test_an_install_by_hashes_does_not_look_for_other_versions(name: str) -> None:
    """The lists are complete. pip 23 else takes the newest pydantic for `pydantic[email]`, which has no hash there."""
    installs = [line for line in (ROOT / name).read_text().splitlines() if "--require-hashes" in line]
    assert installs
    assert [line for line in installs if "--no-deps" not in line] == []
