"""The row of an application: the hundred columns of Dokploy's, most of which mean nothing for an image."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, create_model
from pydantic.alias_generators import to_camel

from gateway.api.procedures._port_mount_rows import MountRow, PortRow
from gateway.api.procedures._project_rows import application_status
from gateway.api.procedures._response import Moment, Response
from gateway.docker.container import adopted_spec
from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import SECRET_DOKPLOY_COLUMNS, Application, Desired
from gateway.model.configuration import Configuration
from gateway.model.deployments import DokployStatus, Status
from gateway.model.dokploy_columns import _KEPT, DokployColumns
from gateway.model.observations import Observation, State

_COLUMN_DEFAULTS = DokployColumns().model_dump(by_alias=True)


class AdoptedContainer(Response):
    """The container that was adopted. Of values that can be secret, only the names are shown."""

    container_id: str
    docker_image: str
    variables: list[str]
    labels: list[str]
    networks: list[str]
    ports: list[str]
    mounts: list[str]


class AdoptedService(Response):
    """The Swarm service that was adopted."""

    service_id: str
    docker_image: str


class ObservedRow(Response):
    """The observed state of an application on its engine. It is independent of the outcome of the last deployment."""

    state: State
    detail: str
    since: Annotated[Moment, Field(description="Time at which this state began.")]
    observed_at: Moment


class _OwnColumns(Response):
    """An application: Dokploy's fields, and the gateway's own."""

    application_id: str
    name: str
    app_name: str
    description: str | None
    docker_image: str | None
    registry_url: str | None
    username: str | None
    password: Annotated[None, Field(description="Always null: passwords are never returned.")]
    env: str | None
    auto_deploy: bool
    refresh_token: Annotated[
        str | None,
        Field(
            description="The deploy token, the last part of the address /api/deploy/…. Null if the key does not "
            "have scope admin."
        ),
    ]
    server_id: str | None
    environment_id: str
    labels_swarm: dict[str, str] | None
    stop_grace_period_swarm: Annotated[int, Field(description="Nanoseconds.")]
    adopted: AdoptedContainer | AdoptedService | None
    application_status: Literal[DokployStatus, "idle"]
    deployment_state: Annotated[
        Status | None, Field(description="State of the newest deployment. Null: it was never deployed.")
    ]
    desired: Annotated[Desired, Field(description="Whether it is to run.")]
    observed: Annotated[ObservedRow | None, Field(description="Null before the first deployment.")]
    created_at: Moment
    ports: list[PortRow]
    mounts: list[MountRow]


def _required_fields(
    model: type[BaseModel], *, but: Collection[str] = (), extra: dict[str, JsonValue] | None = None
) -> dict[str, Any]:
    """Return the fields of a model, all required: an answer has each of them."""
    return {
        name: Annotated[
            field.annotation,
            *field.metadata,
            Field(alias=field.alias or to_camel(name), description=field.description, json_schema_extra=extra),
        ]
        for name, field in model.model_fields.items()
        if name not in but
    }


ApplicationRow: Any = create_model(
    "ApplicationRow",
    __base__=_OwnColumns,
    __doc__=_OwnColumns.__doc__,
    **_required_fields(DokployColumns, extra=_KEPT),
    **_required_fields(Configuration, but={"stop_grace", "ports", "mounts"}),
)

_NANO = 10**9


def application_row(
    application: Application,
    status: str | None,
    *,
    secrets: bool,
    token: str | None = None,
    seen: Observation | None = None,
) -> dict[str, Any]:
    """Return the ApplicationRow as a dictionary: never with a password, with other secrets only with `secrets`."""
    configuration = application.configuration.model_dump(by_alias=True)
    grace = configuration.pop("stopGrace")
    own = _OwnColumns.make(
        application,
        env=application.environment if secrets else None,
        refresh_token=token if secrets else None,
        labels_swarm=configuration["labels"] or None,
        stop_grace_period_swarm=grace * _NANO,
        adopted=None if application.adopted_spec is None else adopted_row(application.adopted_spec),
        application_status=application_status(application.desired, status),
        deployment_state=None if status is None else Status(status),
        observed=None if seen is None else ObservedRow.make(seen),
        ports=[PortRow.from_port(application.application_id, port) for port in application.configuration.ports],
        mounts=[
            MountRow.from_mount(application.application_id, mount, secrets=secrets)
            for mount in application.configuration.mounts
        ],
    )
    return {
        **_COLUMN_DEFAULTS,
        **application.other_columns,
        **({} if secrets else dict.fromkeys(SECRET_DOKPLOY_COLUMNS)),
        **configuration,
        **own.model_dump(),
    }


def adopted_row(base: AdoptedSpec) -> AdoptedContainer | AdoptedService:
    """Return what the application was adopted with. Of values that may be secret it has only the names."""
    if base.is_service:
        return AdoptedService.make(service_id=base.object_id, docker_image=base.image)
    body = adopted_spec.user_config(base)
    host = body["HostConfig"]
    return AdoptedContainer.make(
        container_id=base.object_id,
        docker_image=base.image,
        variables=[text.partition("=")[0] for text in body.get("Env", ())],
        labels=sorted(body.get("Labels", {})),
        networks=sorted(adopted_spec.endpoints(base)),
        ports=sorted(host.get("PortBindings") or {}),
        mounts=sorted(adopted_spec.mount_targets(host)),
    )
