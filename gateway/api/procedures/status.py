"""status.*: what the gateway is doing, in one answer."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.engine_status import EngineStatus
from gateway.admin.inputs import Input
from gateway.api.procedures._response import Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.store import engines, gate_verdicts, gateway_address, observations, queue
from gateway.store.database import statement
from gateway.version import VERSION

procedures = Procedures()

_SILENCE = timedelta(seconds=30)  # after which no gateway is taken to run


class EngineRow(Response):
    """A Docker Engine, as this gateway reaches it."""

    address: str
    server_id: Annotated[str | None, Field(description="Null: the gateway's own engine.")]
    engine: Annotated[str | None, Field(description="Its name.")]
    version: str | None
    error: Annotated[str | None, Field(description="Why it cannot be reached. Null: it can.")]
    running: Annotated[int, Field(description="Rollouts that run on it.")]


class StatusRow(Response):
    """The state of a gateway."""

    version: str
    rolls_out: Annotated[bool, Field(description="Whether a gateway has reached an engine in the last 30 seconds.")]
    engines: list[EngineRow]
    queued: int
    running: int
    oldest_seconds: Annotated[float, Field(description="How long the oldest queued deployment has waited.")]
    waiting_at_gates: int
    applications: Annotated[dict[str, int], Field(description="Number of applications by observed state.")]
    discovers: Annotated[
        list[str],
        Field(description="By which labels it adopts: `labels`, `watchtower`. Empty: GATEWAY_DISCOVER is not set."),
    ]


class AddressRow(Response):
    """Where the gateway is reached. Null: it is not known."""

    public_url: str | None
    listens: str | None


@procedures.query("status.one", gives=StatusRow)
async def select_one(context: Context, _given: Input) -> Answer:
    """Return what the gateway is doing."""
    async with statement(context.pool) as connection:
        reached = await engines.is_any_reached(connection, _SILENCE)
        depth = await queue.select_queue_depth(connection)
        states = await observations.count_states(connection)
        at_gates = await gate_verdicts.count_waiting(connection)
    return Answer(
        StatusRow.make(
            version=VERSION,
            rolls_out=reached,
            engines=_rows(context.rollouts.engines),
            queued=depth.queued,
            running=depth.running,
            oldest_seconds=round(float(depth.oldest), 3),
            waiting_at_gates=sum(at_gates.values()),
            applications={str(state): count for state, count in states.items()},
            discovers=sorted(context.settings.discovers),
        )
    )


def _rows(found: Sequence[EngineStatus]) -> list[EngineRow]:
    return [
        EngineRow.make(
            one,
            engine=one.identity.name if one.identity else None,
            version=one.identity.version if one.identity else None,
            error=one.error or (None if one.identity else "it has not answered yet"),
        )
        for one in found
    ]


@procedures.query("status.address", gives=AddressRow, access=KeyAccess.ANY_KEY)
async def select_address(context: Context, _given: Input) -> Answer:
    """Return where registries and people reach the gateway."""
    async with statement(context.pool) as connection:
        public_url, listens = await gateway_address.select_serving(connection)
    return Answer(AddressRow.make(public_url=public_url or context.settings.public_url, listens=listens))
