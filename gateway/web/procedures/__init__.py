"""What may be asked, by name: one module a noun, the same functions behind both surfaces."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.web.procedures import (
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
from gateway.web.procedures._procedure import Answer, Input, Opens, Procedure, Surface

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
