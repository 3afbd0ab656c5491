"""Setting one variable keeps what others set meanwhile."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.cli import apps
from gateway.client.gateway import Answer, Gateway
from gateway.model.errors import Conflict


class _Shared(Gateway):
    """A gateway whose variables somebody else changes before the first updates."""

    place = "here"

    def __init__(self, changes: list[str]) -> None:
        self.env, self.changes = "A=1", changes

    async def answer(self, procedure: str, given: Mapping[str, Any] | None = None) -> Answer:
        sent = given or {}
        if procedure == "application.one":
            return Answer({"env": self.env})
        if self.changes:
            self.env = self.changes.pop(0)
        if sent["expectedEnv"] != self.env:
            raise Conflict("Somebody else has changed the variables")
        self.env = sent["env"]
        return Answer(value=True)


async def test_variables_that_others_set_meanwhile_stay() -> None:
    gateway = _Shared(["A=1\nB=2", "A=1\nB=2\nC=3"])
    await apps.set_variables(gateway, "web", {}, ["D=4"])
    assert gateway.env == "A=1\nB=2\nC=3\nD=4"


class _Elsewhere(_Shared):
    """A gateway that refuses the change for another reason."""

    async def answer(self, procedure: str, given: Mapping[str, Any] | None = None) -> Answer:
        if procedure == "application.update":
            raise Conflict("its containers are on another engine")
        return await super().answer(procedure, given)


async def test_a_conflict_about_something_else_is_reported() -> None:
    with pytest.raises(Conflict, match="another engine"):
        await apps.set_variables(_Elsewhere([]), "web", {}, ["D=4"])
