"""All procedures, by name. Each module holds those of one noun and lists them in its `procedures`."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.api.procedures import (
    alert,
    application,
    application_adopt,
    application_deploy,
    application_logs,
    application_pending,
    application_search,
    approval,
    audit,
    declaration,
    delivery,
    deployment,
    deployment_queue,
    domain,
    environment,
    gate,
    group,
    lookup,
    mounts,
    port,
    project,
    promotion,
    registry,
    release,
    rollback,
    server,
    settings,
    subscription,
    unsupported,
    user,
    webhook,
)
from gateway.api.rpc.procedure import Procedure

MODULES = (
    alert,
    application,
    application_adopt,
    application_deploy,
    application_logs,
    application_pending,
    application_search,
    approval,
    audit,
    declaration,
    delivery,
    deployment,
    deployment_queue,
    domain,
    environment,
    gate,
    group,
    lookup,
    mounts,
    port,
    project,
    promotion,
    registry,
    release,
    rollback,
    server,
    settings,
    subscription,
    unsupported,
    user,
    webhook,
)

PROCEDURES: Mapping[str, Procedure] = MappingProxyType(
    {procedure.name: procedure for module in MODULES for procedure in module.procedures}
)
