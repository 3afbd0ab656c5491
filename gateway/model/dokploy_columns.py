"""Columns of the Dokploy API without a meaning for images: stored and returned. It performs no I/O."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

_Text = Annotated[str, Field(max_length=100_000)]

_Texts = Annotated[list[_Text], Field(max_length=1000)]

_Number = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]

_COLUMNS = ConfigDict(hide_input_in_errors=True, alias_generator=to_camel, populate_by_name=True)

_KEPT: dict[str, JsonValue] = {"x-kept": True}


def _mark_kept(schema: dict[str, Any]) -> None:
    for column in schema["properties"].values():
        column.update(_KEPT)


class DokployColumns(BaseModel):
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


DOKPLOY_COLUMNS = frozenset(field.alias for field in DokployColumns.model_fields.values() if field.alias)

_NEVER_NULL = frozenset(
    field.alias for field in DokployColumns.model_fields.values() if type(None) not in get_args(field.annotation)
)


def merge_columns(current: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the sent columns into the stored ones. Null means the default for a column that cannot be null."""
    chosen = {
        name: value for name, value in {**current, **sent}.items() if value is not None or name not in _NEVER_NULL
    }
    return DokployColumns.model_validate(chosen).model_dump(by_alias=True, exclude_unset=True)
