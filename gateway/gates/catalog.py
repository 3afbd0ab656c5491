"""All kinds of gates, by name. The module of a kind has its name, and is loaded when a gate of that kind is asked."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from gateway.gates.gate import Gate

_KINDS = (
    "approval",
    "external",
    "maturity",
    "promotion",
    "provenance",
    "signature",
    "vulnerabilities",
    "window",
)


class _Catalog(Mapping[str, Gate]):
    """The gates by kind."""

    def __getitem__(self, kind: str) -> Gate:
        if kind not in _KINDS:
            raise KeyError(kind)
        gate: Gate = import_module(f"{__package__}.{kind}").GATE
        return gate

    def __iter__(self) -> Iterator[str]:
        return iter(_KINDS)

    def __len__(self) -> int:
        return len(_KINDS)


GATES: Mapping[str, Gate] = _Catalog()
