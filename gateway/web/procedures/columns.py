"""An application as the contract shows it: a hundred columns, most of no meaning for an image."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from gateway.applications import OTHER_SECRETS, Application
from gateway.bases import Base
from gateway.configuration import Configuration
from gateway.deployments import DokployStatus
from gateway.engine import adoption
from gateway.observations import Observation, State
from gateway.web.procedures._parts import MountRow, PortRow, mount_row, port_row
from gateway.web.procedures._procedure import Moment
from gateway.web.procedures.nesting import application_status

_Text = Annotated[str, Field(max_length=100_000)]
_Texts = Annotated[list[_Text], Field(max_length=1000)]
_Number = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]

_COLUMNS = ConfigDict(hide_input_in_errors=True, alias_generator=to_camel, populate_by_name=True)


_KEPT: dict[str, JsonValue] = {"x-kept": True}


def _mark_kept(schema: dict[str, Any]) -> None:
    for column in schema["properties"].values():
        column.update(_KEPT)


class Other(BaseModel):
    """What means nothing for an image: kept and returned, so that a client that reads back what it wrote finds it."""

    model_config = _COLUMNS | ConfigDict(json_schema_extra=_mark_kept)

    source_type: _Text = "docker"
    title: _Text | None = None
    subtitle: _Text | None = None
    icon: _Text | None = None
    enabled: bool | None = None
    create_env_file: bool = True
    network_ids: _Texts = []
    detach_dokploy_network: bool = False
    registry_id: _Text | None = None
    rollback_active: bool = False
    rollback_registry_id: _Text | None = None

    build_type: _Text = "nixpacks"
    build_path: _Text | None = "/"
    build_args: _Text | None = None
    build_secrets: _Text | None = None
    build_server_id: _Text | None = None
    build_registry_id: _Text | None = None
    clean_cache: bool | None = False
    trigger_type: _Text | None = "push"
    watch_paths: _Texts | None = None
    dockerfile: _Text | None = "Dockerfile"
    docker_context_path: _Text | None = None
    docker_build_stage: _Text | None = None
    drop_build_path: _Text | None = None
    publish_directory: _Text | None = None
    is_static_spa: bool | None = None
    railpack_version: _Text | None = "0.15.4"
    heroku_version: _Text | None = "24"
    enable_submodules: bool = False

    repository: _Text | None = None
    owner: _Text | None = None
    branch: _Text | None = None
    github_id: _Text | None = None
    gitlab_id: _Text | None = None
    gitlab_project_id: _Number | None = None
    gitlab_repository: _Text | None = None
    gitlab_owner: _Text | None = None
    gitlab_branch: _Text | None = None
    gitlab_build_path: _Text | None = "/"
    gitlab_path_namespace: _Text | None = None
    gitea_id: _Text | None = None
    gitea_repository: _Text | None = None
    gitea_owner: _Text | None = None
    gitea_branch: _Text | None = None
    gitea_build_path: _Text | None = "/"
    bitbucket_id: _Text | None = None
    bitbucket_repository: _Text | None = None
    bitbucket_repository_slug: _Text | None = None
    bitbucket_owner: _Text | None = None
    bitbucket_branch: _Text | None = None
    bitbucket_build_path: _Text | None = "/"
    custom_git_url: _Text | None = None
    custom_git_branch: _Text | None = None
    custom_git_build_path: _Text | None = None
    custom_git_ssh_key_id: Annotated[_Text | None, Field(alias="customGitSSHKeyId")] = None

    preview_env: _Text | None = None
    preview_build_args: _Text | None = None
    preview_build_secrets: _Text | None = None
    preview_labels: _Texts | None = None
    preview_wildcard: _Text | None = None
    preview_port: _Number | None = 3000
    preview_https: bool = False
    preview_path: _Text | None = "/"
    preview_certificate_type: _Text = "none"
    preview_custom_cert_resolver: _Text | None = None
    preview_limit: _Number | None = 3
    is_preview_deployments_active: bool | None = False
    preview_require_collaborator_permissions: bool | None = True


OTHER = frozenset(field.alias for field in Other.model_fields.values() if field.alias)
_NEW = Other().model_dump(by_alias=True)
_NEVER_NULL = frozenset(
    field.alias for field in Other.model_fields.values() if type(None) not in get_args(field.annotation)
)


def kept(current: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the other columns with what was sent; null is the default where a column has no null."""
    chosen = {
        name: value for name, value in {**current, **sent}.items() if value is not None or name not in _NEVER_NULL
    }
    return Other.model_validate(chosen).model_dump(by_alias=True, exclude_unset=True)


class AdoptedContainer(TypedDict):
    """The container an application was adopted with; of what may be secret only the name."""

    containerId: str
    dockerImage: str
    variables: list[str]
    labels: list[str]
    networks: list[str]
    ports: list[str]
    mounts: list[str]


class AdoptedService(TypedDict):
    """The service an application was adopted with."""

    serviceId: str
    dockerImage: str


class ObservedRow(TypedDict):
    """What an application is seen to do on its engine, apart from how its last deployment ended."""

    state: State
    detail: str
    since: Annotated[Moment, Field(description="It has been in this state.")]
    observedAt: Moment


def observed_row(seen: Observation | None) -> ObservedRow | None:
    if seen is None:
        return None
    return {
        "state": seen.state,
        "detail": seen.detail,
        "since": seen.since.isoformat(),
        "observedAt": seen.observed_at.isoformat(),
    }


class _Own(BaseModel):
    """An application: the contract's columns, and ours beside them."""

    model_config = _COLUMNS

    application_id: str
    name: str
    app_name: str
    description: str | None
    docker_image: str | None
    registry_url: str | None
    username: str | None
    password: Annotated[None, Field(description="Never shown.")]
    env: str | None
    auto_deploy: bool
    refresh_token: Annotated[str | None, Field(description="The end of its own address, /api/deploy/….")]
    server_id: str | None
    environment_id: str
    labels_swarm: dict[str, str] | None
    stop_grace_period_swarm: Annotated[int, Field(description="Nanoseconds.")]
    adopted: AdoptedContainer | AdoptedService | None
    application_status: Literal[DokployStatus, "idle"]
    observed: Annotated[ObservedRow | None, Field(description="Null before it was deployed.")]
    created_at: Moment
    ports: list[PortRow]
    mounts: list[MountRow]


def _always(
    model: type[BaseModel], *, but: Collection[str] = (), extra: dict[str, JsonValue] | None = None
) -> dict[str, Any]:
    """Return the fields of a model as an answer has them: each is there."""
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
    __base__=_Own,
    __doc__=_Own.__doc__,
    **_always(Other, extra=_KEPT),
    **_always(Configuration, but={"stop_grace", "ports", "mounts"}),
)

_NANO = 10**9


def row(
    application: Application,
    status: str | None,
    *,
    secrets: bool,
    token: str | None = None,
    seen: Observation | None = None,
) -> dict[str, Any]:
    """Return the ApplicationRow; a password is never in it, other secrets where `secrets` may be seen."""
    configuration = application.configuration.model_dump(by_alias=True)
    grace = configuration.pop("stopGrace")
    return {
        **_NEW,
        **application.other_columns,
        **({} if secrets else dict.fromkeys(OTHER_SECRETS)),
        **configuration,
        "labelsSwarm": configuration["labels"] or None,
        "stopGracePeriodSwarm": grace * _NANO,
        "applicationId": application.application_id,
        "name": application.name,
        "appName": application.app_name,
        "description": application.description,
        "dockerImage": application.docker_image,
        "registryUrl": application.registry_url,
        "username": application.username,
        "password": None,
        "env": application.environment if secrets else None,
        "autoDeploy": application.auto_deploy,
        "refreshToken": token if secrets else None,
        "serverId": application.server_id,
        "environmentId": application.environment_id,
        "adopted": None if application.base is None else adopted(application.base),
        "applicationStatus": application_status(application.desired, status),
        "observed": observed_row(seen),
        "createdAt": application.created_at.isoformat(),
        "ports": [port_row(application.application_id, port) for port in application.configuration.ports],
        "mounts": [
            mount_row(application.application_id, mount, secrets=secrets) for mount in application.configuration.mounts
        ],
    }


def adopted(base: Base) -> AdoptedContainer | AdoptedService:
    """Return what an application was adopted with; of what may be secret only the name."""
    if base.is_service:
        return {"serviceId": base.object_id, "dockerImage": base.image}
    body = adoption.chosen(base)
    host = body["HostConfig"]
    return {
        "containerId": base.object_id,
        "dockerImage": base.image,
        "variables": [text.partition("=")[0] for text in body.get("Env", ())],
        "labels": sorted(body.get("Labels", {})),
        "networks": sorted(adoption.endpoints(base)),
        "ports": sorted(host.get("PortBindings") or {}),
        "mounts": sorted(adoption.mounted(host)),
    }
