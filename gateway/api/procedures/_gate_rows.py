"""Rows of gates."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from gateway.api.procedures._response import Moment, Response
from gateway.gates import catalog
from gateway.model.gates import GateSetting, Level


class GateRow(Response):
    """A gate as it is set on an application, an environment or a project."""

    gate_id: str
    level: Level
    application_id: str | None
    environment_id: str | None
    project_id: str | None
    kind: str
    name: str
    title: Annotated[str, Field(description="What a gate of this kind does.")]
    rule: dict[str, Any]
    has_secret: bool
    enabled: bool
    required: bool
    created_at: Moment

    @classmethod
    def from_setting(cls, setting: GateSetting, **more: Any) -> Self:
        kind = catalog.GATES.get(setting.kind)
        owners: Mapping[str, str | None] = {
            f"{level}_id": setting.owner_id if setting.level is level else None for level in Level
        }
        return cls.make(
            setting,
            rule=dict(setting.rule),
            title=kind.title if kind else "",
            has_secret=bool(setting.secret_mark),
            **owners,
            **more,
        )


class PlacedGate(GateRow):
    """A gate, and whether it applies."""

    applies: Annotated[bool, Field(description="False: a nearer gate of this name replaces it or turns it off.")]
