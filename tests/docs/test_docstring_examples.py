"""The examples in docstrings are run."""

import doctest
import importlib
import pkgutil

import pytest

import gateway

MODULES = [one.name for one in pkgutil.walk_packages(gateway.__path__, "gateway.") if one.name != "gateway.__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
