"""All kinds of gates, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.gates import approval, external, maturity, promotion, provenance, signature, vulnerabilities, window
from gateway.gates.gate import Gate

_ALL: tuple[Gate, ...] = (
    approval.GATE,
    external.GATE,
    maturity.GATE,
    promotion.GATE,
    provenance.GATE,
    signature.GATE,
    vulnerabilities.GATE,
    window.GATE,
)

GATES: Mapping[str, Gate] = MappingProxyType({one.kind: one for one in _ALL})
