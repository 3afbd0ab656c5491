"""What may be asked, by name: one module a noun, the same functions behind both surfaces."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.admin.inputs import Input
from gateway.api.procedures import (
    application,
    application_logs,
    audit,
    delivery,
    deployment,
    deployment_queue,
    domain,
    environment,
    mounts,
    port,
    project,
    registry,
    rollback,
    server,
    settings,
    subscription,
    user,
    webhook,
)
from gateway.api.procedures import application_adopt as adoption
from gateway.api.procedures import application_deploy as application_lane
from gateway.api.procedures import application_pending as pending
from gateway.api.procedures import application_search as application_place
from gateway.api.procedures import unsupported as absent
from gateway.api.rpc.procedure import Answer, Opens, Procedure, Surface

__all__ = ["PROCEDURES", "Answer", "Input", "Opens", "Procedure", "Surface"]

MODULES = (
    absent,
    adoption,
    application,
    application_lane,
    application_logs,
    application_place,
    audit,
    delivery,
    deployment,
    deployment_queue,
    domain,
    environment,
    mounts,
    pending,
    port,
    project,
    registry,
    rollback,
    server,
    settings,
    subscription,
    user,
    webhook,
)

PROCEDURES: Mapping[str, Procedure] = MappingProxyType(
    {procedure.name: procedure for module in MODULES for procedure in module.PROCEDURES}
)
