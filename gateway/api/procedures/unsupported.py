"""Procedures for what the gateway does not have: only for Dokploy's clients. The answer is an empty list."""

from typing import Any

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures

procedures = Procedures()


class OfService(Input):
    id: Id
    schedule_type: Id


@procedures.query("gitProvider.getAll", gives=list[Any], access=KeyAccess.ANY_KEY)
@procedures.query("notification.all", gives=list[Any], access=KeyAccess.ANY_KEY)
@procedures.query("destination.all", gives=list[Any], access=KeyAccess.ANY_KEY)
@procedures.query("schedule.list", takes=OfService, gives=list[Any])
@procedures.query("sshKey.all", gives=list[Any], access=KeyAccess.ANY_KEY)
@procedures.query("certificates.all", gives=list[Any], access=KeyAccess.ANY_KEY)
async def empty_list(_context: Context, _given: Input) -> Answer:
    """Return an empty list.

    The gateway has no such objects.
    """
    return Answer([])
