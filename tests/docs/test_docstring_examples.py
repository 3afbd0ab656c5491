"""The examples in docstrings are run."""

import doctest
import importlib
from pathlib import Path

import pytest

import gateway

PACKAGE = Path(gateway.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    ran = doctest.testmod(importlib.import_module(name))
    assert (ran.failed, ran.attempted > 0) == (0, True)
