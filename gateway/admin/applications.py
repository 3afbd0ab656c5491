"""Change an application: an absent field stays, null clears it."""

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
from gateway.model.gates import Level
from gateway.model.reference import Reference
from gateway.model.registries import RegistryScope
from gateway.store import applications, engines, gate_verdicts, servers, subscriptions
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.gates import Owner

# The keys of a column's schema that do not restrict its value.
_ANNOTATIONS = {"default", "description", "x-kept"}
# An engine that no gateway has reached for so long is lost: its applications may move to another one.
_ENGINE_LOST_AFTER = timedelta(minutes=5)


class Changes(Input):
    """The fields that were sent. `settings` holds those of the configuration, `other` the columns kept for clients."""

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
        """Return the schema with the columns in place of `settings` and `other`, nullable where null clears."""
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
        """Return the schema with null allowed, and with its default only where an application is created."""
        if {"type": "null"} not in column.get("anyOf", ()):
            annotations = {name: value for name, value in column.items() if name in _ANNOTATIONS}
            column = {
                "anyOf": [{name: column[name] for name in column.keys() - annotations}, {"type": "null"}],
                **annotations,
            }
        return {name: value for name, value in column.items() if cls.creates or name != "default"}


#: columns of the table by the fields of Changes
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
    """Whether an application has a column or setting of this camelCase name."""
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
    """Apply all changes or none; raises InvalidInput naming the field that is wrong, Forbidden, or Conflict."""
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
        await limits.check(connection, vault, current, wanted=wanted, env=given.env, server_id=where)
    if "server_id" in changes:
        await _validate_server(connection, vault, current, given.server_id)
    changes |= _bind_password(current, given)
    await applications.update_application(connection, vault, application_id, changes)
    if "environment_id" in changes:  # other gates are in force there
        await gate_verdicts.wake_owned(connection, Owner(Level.APPLICATION, application_id))
    if "docker_image" in changes:
        reference = Reference.parse(given.docker_image) if given.docker_image else None
        await subscriptions.replace_subscription(connection, application_id, reference)


async def _validate_service(connection: Connection, application_id: str, wanted: Configuration) -> None:
    """Raises InvalidInput when the configuration needs a Swarm service, and the application cannot run as one."""
    if not wanted.service_requirement or await _may_be_service(connection, application_id, wanted):
        return
    how = (
        "and runtime is container: set it to auto"
        if wanted.runtime is RuntimeKind.CONTAINER
        else "and the engine is not a Swarm manager: make it one with docker swarm init"
    )
    raise InvalidInput(
        f"{wanted.service_requirement} can only run as a Swarm service, {how}, or ask for one container",
        field="replicas" if wanted.replicas > 1 else "modeSwarm",
    )


def _bind_password(current: Application, given: Changes) -> dict[str, object]:
    """Return a change of the registry that the password is for, if any.

    A password is sent only to the registry it was given for. Raises InvalidInput when the change would send it to
    another one.
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
            "registryUrl, or password null to remove it",
            field="registryUrl",
        )
    return {"password_for": belongs or address} if current.password_for is None else {}


async def _validate_server(connection: Connection, vault: Vault, current: Application, server_id: str | None) -> None:
    """Raises InvalidInput when the server does not exist, Conflict when the containers are on another live engine."""
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
    """Whether the application may run as a service. Before its first deployment the engine is unknown: assume yes."""
    if wanted.runtime is not None:
        return wanted.runtime is RuntimeKind.SERVICE
    return await engines.select_swarm_manager(connection, application_id)
