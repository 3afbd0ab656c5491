"""The expressions of monitoring/: of the alert rules and of the dashboard."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

MONITORING = Path(__file__).parents[2] / "monitoring"

_STRING = re.compile(r'"[^"]*"')
_METRIC = re.compile(r"\b(?:gateway|process|python|up)\w*\b(?!\()")


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression with where it stands."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def metrics_in(expression: str) -> set[str]:
    """Return the names of metrics in it."""
    return set(_METRIC.findall(_STRING.sub("", expression)))
