from importlib import import_module
from pkgutil import iter_modules

from gateway import gates
from gateway.gates.catalog import GATES


def test_the_catalog_has_every_gate_by_its_kind() -> None:
    modules = {one.name: import_module(f"{gates.__name__}.{one.name}") for one in iter_modules(gates.__path__)}
    found = {name: module.GATE for name, module in modules.items() if hasattr(module, "GATE")}
    assert dict(GATES) == found
    assert list(found) == [gate.kind for gate in found.values()]
    assert GATES.get("nothing") is None
