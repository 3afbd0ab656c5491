"""application.*: read the logs of its containers."""

import re
import time
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.admin.context import Context
from gateway.admin.engine_status import host_of
from gateway.admin.inputs import Input, Words
from gateway.api.procedures.application import Named, require_application
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.docker import application_logs
from gateway.model.errors import RolloutError, Unavailable
from gateway.store.database import transaction

procedures = Procedures()

#: colours and other control sequences of a terminal, which no reader sees: ECMA-48, 5.4
_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGE = re.compile(r"(\d{1,9})([smhd])")


def _age(text: str) -> str:
    if text != "all" and not _AGE.fullmatch(text):
        raise ValueError("must be all, or an age, for example 90s, 10m, 2h or 7d")
    return text


class Read(Named):
    tail: Annotated[int, Field(ge=1, le=10_000, description="Number of lines, from the end.")] = 100
    since: Annotated[str, AfterValidator(_age), Field(description="`all`, or an age: 90s, 10m, 2h, 7d.")] = "all"
    search: Annotated[
        str, Field(max_length=500, description="Of these lines, return only those that contain this text, in any case.")
    ] = ""


class Monitored(Input):
    app_name: Words = ""


def _since(age: str) -> int:
    """Return the Unix time that is `age` ago; 0 for all."""
    found = _AGE.fullmatch(age)
    return max(0, int(time.time()) - int(found[1]) * _SECONDS[found[2]]) if found else 0


def plain(line: str) -> str:
    """Return what a line says to who reads it: without its colours."""
    return _CONTROL.sub("", line)


@procedures.query("application.readLogs", gives=str, raises=(Unavailable,))
async def read_logs(context: Context, given: Read) -> Answer:
    """Return the last log lines of an application's containers.

    The answer is empty if the application has no container.
    """
    async with transaction(context.pool) as connection:
        application = await require_application(connection, context, given)
    if application.engine_id is None:
        return Answer("")
    host = host_of(context.rollouts, application)
    swarm = host.identity is not None and host.identity.swarm_manager
    try:
        text = await application_logs.read(
            host.engine, application, swarm=swarm, lines=given.tail, since=_since(given.since)
        )
    except RolloutError as error:
        raise Unavailable(f"cannot read the log of {application.name}: {error}") from error
    if given.search:
        wanted = given.search.lower()
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if wanted in plain(line).lower())
    return Answer(text)


@procedures.query(
    "application.readAppMonitoring", takes=Monitored, gives=dict[str, Any] | None, access=KeyAccess.ANY_KEY
)
@procedures.query("application.readTraefikConfig", takes=Named, gives=str | None)
async def null(_context: Context, _given: Input) -> Answer:
    """Return null.

    The gateway has neither Dokploy's monitoring nor Traefik.
    """
    return Answer(None)
