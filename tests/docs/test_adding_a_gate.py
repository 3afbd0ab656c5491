"""The example of a gate is one: it imports what exists, and decides about an image."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.gates.asking import ask_all
from gateway.gates.gate import Gate
from gateway.model.gates import Candidate, GateSetting, Level, Verdict
from gateway.model.reference import Digest, Reference
from gateway.model.registries import ANONYMOUS

PAGE = Path(__file__).parents[2] / "docs/adding-a-gate.md"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
DIGEST = Digest("sha256:" + "ab" * 32)


async def test_the_example_decides() -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - the page is ours
    gate = names["GATE"]
    assert isinstance(gate, Gate)
    nothing: Any = None
    rules: list[dict[str, Any]] = [{"tag": "v1"}, {"tag": "v2"}, {}]
    switches: dict[str, Any] = {"enabled": True, "required": False, "created_at": NOW}
    settings = [
        GateSetting(str(number), Level.APPLICATION, "a", "label", "label", rule, **switches)
        for number, rule in enumerate(rules)
    ]
    reference = Reference.parse("acme/web:v1").with_digest(DIGEST)
    candidate = Candidate(nothing, nothing, reference, DIGEST, "spec", "linux/amd64", ANONYMOUS)
    answers = await ask_all(nothing, {"label": gate}, settings, candidate, lambda: NOW)
    assert [one.decision.verdict for one in answers] == [Verdict.PASSED, Verdict.REFUSED, Verdict.UNKNOWN]
