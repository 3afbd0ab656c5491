"""What may be set on an application: absent keeps, null clears."""

from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.admin.configuration_patch import OTHER_NAMES, collect_settings, is_setting, merge_settings
from gateway.admin.inputs import Id, Input, Text
from gateway.admin.privileges import KeyLimits
from gateway.model.applications import Application, login_registry, parse_environment
from gateway.model.configuration import MAX_STOP_GRACE, Configuration, RuntimeKind
from gateway.model.dokploy_columns import DOKPLOY_COLUMNS, DokployColumns, merge_columns
from gateway.model.errors import Conflict, InvalidInput, NotFound
from gateway.model.reference import Reference
from gateway.model.registries import RegistryScope
from gateway.store import applications, engines, servers, subscriptions
from gateway.store.database import Connection
from gateway.store.encryption import Vault

# What a description says of a column, and not of what it holds.
_ANNOTATIONS = {"default", "description", "x-kept"}
# An engine that no gateway has reached for so long does not hold its applications any more.
_ENGINE_LOST_AFTER = timedelta(minutes=5)


class Changes(Input):
    """The columns an application has of its own; `settings` gathers its configuration, `other` the rest."""

    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    description: Text | None = None
    docker_image: Text | None = None
    registry_url: Text | None = None
    username: Text | None = None
    password: Annotated[str, Field(max_length=16_384)] | None = None
    env: Annotated[str, Field(max_length=1_000_000)] | None = None
    auto_deploy: bool | None = None
    server_id: Id | None = None
    environment_id: Id | None = None
    creates: ClassVar = False
    settings: dict[str, Any] = Field(default_factory=dict)
    other: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        other = {name: given[name] for name in given if name in DOKPLOY_COLUMNS}
        return {**given, "settings": collect_settings(given), "other": other}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Show what is gathered as it is sent: each column by itself, and null where that clears it."""
        shown = handler.resolve_ref_schema(handler(core))
        columns = {name: each for name, each in shown["properties"].items() if name not in {"settings", "other"}}
        for model in (Configuration, DokployColumns):
            columns |= handler.resolve_ref_schema(handler(model.__pydantic_core_schema__))["properties"]
        grace = {"type": "integer", "minimum": 0, "maximum": MAX_STOP_GRACE * 10**9}
        columns |= {theirs: columns[ours] for theirs, ours in OTHER_NAMES.items()} | {"stopGracePeriodSwarm": grace}
        needed = shown.get("required", ())
        shown["properties"] = {name: each if name in needed else cls._clearable(each) for name, each in columns.items()}
        return shown

    @classmethod
    def _clearable(cls, column: JsonSchemaValue) -> JsonSchemaValue:
        """Return it with null; what a new application has says nothing of one that is changed."""
        if {"type": "null"} not in column.get("anyOf", ()):
            told = {name: value for name, value in column.items() if name in _ANNOTATIONS}
            column = {"anyOf": [{name: column[name] for name in column.keys() - told}, {"type": "null"}], **told}
        return {name: value for name, value in column.items() if cls.creates or name != "default"}


#: our columns by the names they are sent by
_COLUMNS = {
    "name": "name",
    "description": "description",
    "docker_image": "docker_image",
    "registry_url": "registry_url",
    "username": "registry_username",
    "password": "registry_password",
    "env": "environment",
    "auto_deploy": "auto_deploy",
    "server_id": "server_id",
    "environment_id": "environment_id",
}


def is_application_column(name: str) -> bool:
    """Tell whether an application has this, by the name it is sent by."""
    return is_setting(name) or name in {to_camel(column) for column in _COLUMNS}


async def apply_changes(
    connection: Connection,
    vault: Vault,
    application_id: str,
    given: Changes,
    *,
    limits: KeyLimits | None,
    must_change: bool = False,
) -> None:
    """Set what was sent, all of it or nothing; raises InvalidInput naming the field that is wrong, or Forbidden."""
    sent = given.sent_fields()
    changes: dict[str, object] = {column: getattr(given, field) for field, column in _COLUMNS.items() if field in sent}
    for column in ("name", "auto_deploy", "environment_id"):
        if column in changes and changes[column] is None:
            del changes[column]
    current = await applications.select_application(connection, vault, application_id, without=applications.SET_WHOLE)
    wanted = merge_settings(current.configuration, given.settings) if given.settings else None
    if wanted is not None:
        await _validate_service(connection, application_id, wanted)
        changes["configuration"] = wanted.model_dump(by_alias=True, exclude_defaults=True)
    if given.other:
        changes["other_columns"] = merge_columns(current.other_columns, given.other)
    if must_change and not changes:
        raise InvalidInput("No values to set")
    _validate_texts(given)
    if limits is not None:
        where = given.server_id if "server_id" in changes else current.server_id
        await limits.check(connection, current, wanted=wanted, env=given.env, server_id=where)
    if "server_id" in changes:
        await _validate_server(connection, vault, current, given.server_id)
    changes |= _bind_password(current, given)
    await applications.update_application(connection, vault, application_id, changes)
    if "docker_image" in changes:
        reference = Reference.parse(given.docker_image) if given.docker_image else None
        await subscriptions.replace_subscription(connection, application_id, reference)


async def _validate_service(connection: Connection, application_id: str, wanted: Configuration) -> None:
    """Raises InvalidInput where it takes a service, and cannot be one."""
    if not wanted.service_requirement or await _may_be_service(connection, application_id, wanted):
        return
    how = (
        "and runtime is container: set it to auto"
        if wanted.runtime is RuntimeKind.CONTAINER
        else "which takes Docker Swarm: make the engine a manager of one with docker swarm init"
    )
    raise InvalidInput(
        f"{wanted.service_requirement} can only be had of a service, {how}, or ask for one container",
        field="replicas" if wanted.replicas > 1 else "modeSwarm",
    )


def _bind_password(current: Application, given: Changes) -> dict[str, object]:
    """Return for which registry the password is, where that changes; raises InvalidInput where it would be another.

    What was given for one is sent to no other: an image from elsewhere is asked for without it.
    """
    sent = given.sent_fields()
    address = login_registry(
        given.registry_url if "registry_url" in sent else current.registry_url,
        given.docker_image if "docker_image" in sent else current.docker_image,
    )
    if "password" in sent:
        return {"password_for": address if given.password else None}
    if not current.has_password:
        return {}
    belongs = current.password_for or current.registry
    if given.registry_url and belongs is not None and address != belongs:
        raise InvalidInput(
            f"the password was given for {belongs}, and is not sent to {address}: send username and password with "
            "registryUrl, or password null to forget it",
            field="registryUrl",
        )
    return {"password_for": belongs or address} if current.password_for is None else {}


async def _validate_server(connection: Connection, vault: Vault, current: Application, server_id: str | None) -> None:
    """Raises where there is no such server, or the application's containers are on another engine that lives."""
    try:
        if server_id is not None:
            await servers.select_server(connection, vault, server_id)
    except NotFound as error:
        raise InvalidInput(f"there is no server {server_id!r}; see server.all", field="serverId") from error
    if current.engine_id is None:
        return
    if not await engines.select_seen(connection, current.application_id, _ENGINE_LOST_AFTER):
        await applications.unbind_engine(connection, current.application_id)
    elif server_id != current.server_id:
        raise Conflict(
            f"{current.name} has its containers on another engine since its first deployment: "
            "create an application on this server, and delete this one"
        )


def _validate_texts(given: Changes) -> None:
    for field, value, parse in (
        ("dockerImage", given.docker_image, Reference.parse),
        ("registryUrl", given.registry_url, RegistryScope.parse),
        ("env", given.env, parse_environment),
    ):
        if value is None:
            continue
        try:
            parse(value)
        except InvalidInput as error:
            raise InvalidInput(str(error), field=field) from error


async def _may_be_service(connection: Connection, application_id: str, wanted: Configuration) -> bool:
    """Tell whether it may run as a service; where the engine is not known yet, its first deployment tells."""
    if wanted.runtime is not None:
        return wanted.runtime is RuntimeKind.SERVICE
    return await engines.select_swarm_manager(connection, application_id)
