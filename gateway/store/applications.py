"""Applications. Their secrets are stored encrypted."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg
import orjson

from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import SECRET_DOKPLOY_COLUMNS, Application, Desired
from gateway.model.configuration import Configuration
from gateway.model.errors import Conflict, NotFound
from gateway.model.reference import Domain
from gateway.model.registries import parse_credentials
from gateway.store import application_images, projects, undecryptable
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.engines import AT_SERVERS, Place
from gateway.store.gates import GATED
from gateway.store.pagination import FIRST, Page
from gateway.store.queue import AT_GATE
from gateway.store.undecryptable import Row

_COLUMNS = """
    application_id, name, app_name, description, docker_image, registry_url, registry_username,
    registry_password, environment, configuration, other_columns, auto_deploy, desired, server_id,
    engine_id, created_at, base, files, environment_id, other_secrets, password_for,
    (SELECT installation_id FROM installation) AS installation, (SELECT restored_at FROM installation) AS restored_at,
    ARRAY(SELECT d.deployment_id FROM deployments d
           WHERE d.application_id = applications.application_id AND d.marked_to <> d.epoch) AS unmarked
"""


def _place(application_id: str, column: str) -> str:
    return f"applications:{application_id}:{column}"


def _from_row(row: Row, vault: Vault) -> Application:
    application_id = row["application_id"]
    username, password = row["registry_username"], row["registry_password"]
    # Clients send both empty for an image that needs no credentials.
    decrypted = None if password is None else vault.decrypt(password, _place(application_id, "registry_password"))
    environment, base, files = row["environment"], row["base"], row["files"]
    contents = {} if files is None else orjson.loads(vault.decrypt(files, _place(application_id, "files")))
    return Application(
        application_id=application_id,
        name=row["name"],
        app_name=row["app_name"],
        description=row["description"],
        docker_image=row["docker_image"],
        registry_url=row["registry_url"],
        credentials=parse_credentials(username, decrypted) if username and decrypted else None,
        username=username,
        password_for=None if row["password_for"] is None else Domain(row["password_for"]),
        has_password=bool(decrypted),
        environment=None if environment is None else vault.decrypt(environment, _place(application_id, "environment")),
        configuration=_join_configuration(row["configuration"], contents),
        other_columns=row["other_columns"] | _other_secrets(row, vault),
        auto_deploy=row["auto_deploy"],
        desired=Desired(row["desired"]),
        server_id=row["server_id"],
        engine_id=row["engine_id"],
        created_at=row["created_at"],
        adopted_spec=None if base is None else AdoptedSpec.load(vault.decrypt(base, _place(application_id, "base"))),
        environment_id=row["environment_id"],
        installation_id=row["installation"],
        restored_at=row["restored_at"],
        unlabelled_deployments=frozenset(row["unmarked"]),
        gated=row.get("gated", False),
    )


def _other_secrets(row: Row, vault: Vault) -> dict[str, Any]:
    encrypted = row["other_secrets"]
    if encrypted is None:
        return {}
    found: dict[str, Any] = orjson.loads(vault.decrypt(encrypted, _place(row["application_id"], "other_secrets")))
    return found


def _split_other_columns(columns: Mapping[str, object]) -> dict[str, object]:
    """Return the columns for other API fields. Fields that may be secret are apart, to be encrypted."""
    hidden = {name: columns[name] for name in SECRET_DOKPLOY_COLUMNS if columns.get(name)}
    return {
        "other_columns": {name: value for name, value in columns.items() if name not in hidden},
        "other_secrets": orjson.dumps(hidden).decode() if hidden else None,
    }


def _join_configuration(stored: Mapping[str, Any], contents: Mapping[str, str]) -> Configuration:
    """Return the configuration with the contents of its files."""
    mounts = [
        {**mount, "content": contents.get(mount["target"], "")} if mount.get("type") == "file" else mount
        for mount in stored.get("mounts", ())
    ]
    return Configuration.model_validate({**stored, "mounts": mounts})


def _split_configuration(configuration: Configuration) -> dict[str, object]:
    """Return the columns of a configuration. The contents of files are apart, by mount path, to be encrypted."""
    plain = configuration.with_ids(configuration).model_dump(by_alias=True, exclude_defaults=True)
    contents = {mount["target"]: mount.pop("content", "") for mount in plain.get("mounts", ()) if "content" in mount}
    return {"configuration": plain, "files": orjson.dumps(contents).decode() if contents else None}


async def select_application(
    connection: Connection, vault: Vault, application_id: str, *, without: Collection[str] = ()
) -> Application:
    """Return an application, also one that is being deleted.

    Raises NotFound, and UndecryptableSecret if no key decrypts one of its secrets; a column of `without` is None then.
    """
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, {GATED} AS gated FROM applications WHERE application_id = $1",  # noqa: S608 - constants
        application_id,
    )
    if row is None:
        raise NotFound("Application not found")
    ((application, _),) = undecryptable.read_all([row], lambda one: _from_row(one, vault), without)
    return application


async def select_application_with_part(
    connection: Connection, vault: Vault, part: Mapping[str, object], *, missing: str
) -> Application:
    """Return the application whose configuration contains this part. Raises NotFound with the text `missing`."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM applications WHERE configuration @> $1 AND desired <> 'deleted'",  # noqa: S608
        dict(part),
    )
    if row is None:
        raise NotFound(missing)
    return _from_row(row, vault)


async def select_applications(
    connection: Connection, vault: Vault, page: Page = FIRST, *, only: Collection[str] | None = None
) -> list[Application]:
    """Return a page of all applications, or of `only` these, without secrets that no key decrypts."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM applications
         WHERE desired <> 'deleted' AND (created_at, application_id) < ($1, $2)
           AND ($4::text[] IS NULL OR application_id = ANY($4))
         ORDER BY created_at DESC, application_id DESC
         LIMIT $3
        """,  # noqa: S608
        *page.bounds,
        None if only is None else list(only),
    )
    return [one for one, _ in undecryptable.read_all(rows, lambda row: _from_row(row, vault), _ENCRYPTED)]


async def select_idle(
    connection: Connection, vault: Vault, engine_id: str, server_ids: Sequence[str | None]
) -> list[Application]:
    """Return the applications on this engine at these servers that are free, as `queue.is_free` says."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM applications
         WHERE application_id IN (SELECT a.application_id FROM applications a WHERE a.engine_id = $1 AND {AT_SERVERS})
           AND NOT EXISTS (
                   SELECT FROM deployments w
                    WHERE w.application_id = applications.application_id
                      AND (w.status = 'running' OR w.status = 'queued' AND NOT {AT_GATE})
               )
           AND NOT EXISTS (
                   SELECT FROM release_members m WHERE m.application_id = applications.application_id AND m.open
               )
        """,  # noqa: S608 - a constant
        engine_id,
        [server_id or "" for server_id in server_ids],
    )
    return undecryptable.read_decryptable(rows, lambda row: _from_row(row, vault))


async def select_places(connection: Connection) -> set[Place]:
    """Return where applications are bound to an engine."""
    rows = await connection.fetch(
        "SELECT DISTINCT engine_id, server_id FROM applications WHERE engine_id IS NOT NULL AND desired <> 'deleted'"
    )
    return {Place(*row) for row in rows}


async def is_idle(connection: Connection, application_id: str) -> bool:
    """Return whether the application has no queued or running deployment, and is in no open release."""
    return not await connection.fetchval(
        """
        SELECT EXISTS (SELECT FROM deployments WHERE application_id = $1 AND status IN ('queued', 'running'))
            OR EXISTS (SELECT FROM release_members WHERE application_id = $1 AND open)
        """,
        application_id,
    )


async def select_named(connection: Connection, app_name: str, server_id: str | None) -> str | None:
    """Return the application with this container name on the server; None is the gateway's own engine."""
    row = await connection.fetchval(
        "SELECT application_id FROM applications WHERE app_name = $1 AND server_id IS NOT DISTINCT FROM $2",
        app_name,
        server_id,
    )
    return None if row is None else str(row)


async def is_app_name_taken(connection: Connection, app_name: str) -> bool:
    """Return whether an application, on any server, has this container name."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM applications WHERE app_name = $1)", app_name))


async def select_names(connection: Connection, application_ids: Collection[str]) -> dict[str, str]:
    """Return an unambiguous name of each of these applications by id, without those that do not exist.

    If another application has the same name, it is PROJECT/ENVIRONMENT/NAME; if that is shared too, NAME (CONTAINER),
    with the container name.
    """
    rows = await connection.fetch(
        """
        SELECT a.application_id,
               CASE WHEN NOT EXISTS (
                         SELECT FROM applications o
                          WHERE (o.application_id = a.name OR o.app_name = a.name
                                 OR (lower(o.name) = lower(a.name) AND o.name = a.name))
                            AND o.application_id <> a.application_id
                    ) THEN a.name
                    WHEN e.name IS NULL OR EXISTS (
                         SELECT FROM applications o
                           JOIN environments oe USING (environment_id)
                           JOIN projects op USING (project_id)
                          WHERE lower(o.name) = lower(a.name) AND o.name = a.name
                            AND o.application_id <> a.application_id AND oe.name = e.name AND op.name = p.name
                    ) THEN a.name || ' (' || a.app_name || ')'
                    ELSE concat_ws('/', p.name, e.name, a.name) END AS name
          FROM applications a
          LEFT JOIN environments e USING (environment_id)
          LEFT JOIN projects p USING (project_id)
         WHERE a.application_id = ANY($1)
        """,
        list(application_ids),
    )
    return {row["application_id"]: row["name"] for row in rows}


async def select_application_id(connection: Connection, named: str) -> str:
    """Return the id of the application with this id, container name or name. Raises NotFound."""
    row = await connection.fetchrow(
        """
        SELECT application_id
          FROM applications
         WHERE (application_id = $1 OR app_name = $1 OR (lower(name) = lower($1) AND name = $1))
           AND desired <> 'deleted'
         ORDER BY application_id = $1 DESC, app_name = $1 DESC, created_at
         LIMIT 1
        """,
        named,
    )
    if row is None:
        raise NotFound(f"there is no application called {named!r}; see: gateway apps list")
    return str(row["application_id"])


async def select_names_taken(connection: Connection, name: str) -> bool:
    """Tell whether an application has this id, container name or name."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM applications"
            " WHERE $1 IN (application_id, app_name, name) AND desired <> 'deleted')",
            name,
        )
    )


async def require_live(connection: Connection, application_id: str) -> None:
    """Raises NotFound unless the application exists and is not being deleted."""
    if not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM applications WHERE application_id = $1 AND desired <> 'deleted')", application_id
    ):
        raise NotFound("Application not found")


async def lock_application(connection: Connection, application_id: str) -> Desired:
    """Lock the application's queue until the transaction ends. Raises NotFound, also if it is being deleted."""
    row = await connection.fetchrow(
        """
        SELECT desired
          FROM applications
         WHERE application_id = $1 AND desired <> 'deleted'
           FOR NO KEY UPDATE
        """,
        application_id,
    )
    if row is None:
        raise NotFound("Application not found")
    return Desired(row["desired"])


async def lock_row(connection: Connection, application_id: str) -> None:
    """Lock the application's queue, also if it is being deleted."""
    await connection.execute("SELECT FROM applications WHERE application_id = $1 FOR NO KEY UPDATE", application_id)


async def lock_all(connection: Connection, application_ids: Collection[str]) -> dict[str, Desired]:
    """Lock the queues of these applications, in the order of their ids. Return the desired states of those that exist.

    An application that is being deleted still exists.
    """
    rows = await connection.fetch(
        """
        SELECT application_id, desired
          FROM applications
         WHERE application_id = ANY($1)
         ORDER BY application_id
           FOR NO KEY UPDATE
        """,
        list(application_ids),
    )
    return {row["application_id"]: Desired(row["desired"]) for row in rows}


async def insert_application(
    connection: Connection,
    *,
    application_id: str | None,
    name: str,
    app_name: str,
    description: str | None,
    server_id: str | None = None,
    environment_id: str | None = None,
) -> str:
    """Return the new id. Without an environment, the application is added to the default one.

    Raises Conflict when the id, or the container's name on that server, is taken; NotFound for an unknown environment.
    """
    belongs = environment_id or await projects.ensure_default(connection)
    try:
        row = await connection.fetchval(
            """
            INSERT INTO applications (application_id, name, app_name, description, server_id, environment_id)
            VALUES (coalesce($1, gen_random_uuid()::text), $2, $3, $4, $5, $6)
            RETURNING application_id
            """,
            application_id,
            name,
            app_name,
            description,
            server_id,
            belongs,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise _unknown(error) from error
    except asyncpg.UniqueViolationError as error:
        taken = "applicationId" if error.constraint_name == "applications_pkey" else "'AppName'"
        raise Conflict(f"Application with this {taken} already exists") from error
    return str(row)


def _unknown(error: asyncpg.ForeignKeyViolationError) -> NotFound:
    what = "Environment" if "environment" in (error.constraint_name or "") else "Server"
    return NotFound(f"{what} not found")


#: the columns that `update_application` may set
_SETTABLE = (
    "name",
    "description",
    "docker_image",
    "registry_url",
    "registry_username",
    "registry_password",
    "password_for",
    "environment",
    "configuration",
    "other_columns",
    "other_secrets",
    "auto_deploy",
    "server_id",
    "base",
    "files",
    "environment_id",
)
_ENCRYPTED = frozenset({"registry_password", "environment", "base", "files", "other_secrets"})
#: secrets that are needed to run an application, but not to stop or remove it
TO_RUN = _ENCRYPTED - {"base"}
#: columns that a change replaces, so that the former value need not be read
SET_WHOLE = frozenset({"registry_password", "environment"})


async def update_application(
    connection: Connection, vault: Vault, application_id: str, changes: Mapping[str, object]
) -> None:
    """Set the named columns, with secrets in plain text. Raises KeyError for an unknown name.

    Raises Conflict when another application has its container's name on its new server, and NotFound for an unknown
    environment or server. A configuration may be the model or its JSON.
    """
    if isinstance(others := changes.get("other_columns"), Mapping):
        changes = {**changes, **_split_other_columns(others)}
    if "configuration" in changes:
        changes = {**changes, **_split_configuration(Configuration.model_validate(changes["configuration"]))}
    columns = [column for column in _SETTABLE if column in changes]
    if unknown := set(changes) - set(columns):
        raise KeyError(*unknown)
    if not columns:
        return
    values = [
        vault.encrypt(str(value), _place(application_id, column))
        if column in _ENCRYPTED and (value := changes[column]) is not None
        else changes[column]
        for column in columns
    ]
    assignments = ", ".join(f"{column} = ${number}" for number, column in enumerate(columns, start=2))
    try:
        await connection.execute(
            f"UPDATE applications SET {assignments} WHERE application_id = $1",  # noqa: S608 - names from the constant
            application_id,
            *values,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise _unknown(error) from error
    except asyncpg.UniqueViolationError as error:
        raise Conflict("an application on that server has a container of the same name") from error
    if "docker_image" in changes:
        await application_images.keep_current_image(connection, application_id)


async def update_desired(connection: Connection, application_id: str, desired: Desired) -> None:
    await connection.execute("UPDATE applications SET desired = $2 WHERE application_id = $1", application_id, desired)


async def select_adopted_specs(connection: Connection, vault: Vault, *, but: str | None = None) -> list[AdoptedSpec]:
    """Return what all applications were adopted with, except one. Raises UndecryptableSecret."""
    rows = await connection.fetch(
        "SELECT application_id, base FROM applications WHERE base IS NOT NULL AND application_id IS DISTINCT FROM $1",
        but,
    )
    return [AdoptedSpec.load(vault.decrypt(row["base"], _place(row["application_id"], "base"))) for row in rows]


async def select_engine_id(connection: Connection, application_id: str) -> str | None:
    """Return the engine of an application; None if it was never deployed."""
    row = await connection.fetchval("SELECT engine_id FROM applications WHERE application_id = $1", application_id)
    return None if row is None else str(row)


async def bind_engine(connection: Connection, application_id: str, engine_id: str) -> None:
    """Bind the application to an engine, unless it is bound already."""
    await connection.execute(
        "UPDATE applications SET engine_id = $2 WHERE application_id = $1 AND engine_id IS NULL",
        application_id,
        engine_id,
    )


async def unbind_engine(connection: Connection, application_id: str) -> None:
    """Remove the binding to an engine: the next deployment is like the first."""
    await connection.execute("UPDATE applications SET engine_id = NULL WHERE application_id = $1", application_id)


async def delete_application(connection: Connection, application_id: str) -> None:
    """Delete the application and all that depends on it. The caller holds the lock of its queue.

    When its deployments are deleted, a trigger writes their ends to their deliveries, which other applications share.
    So the deliveries are locked first, in order.
    """
    await connection.execute(
        """
        SELECT FROM deliveries
         WHERE delivery_id IN (
               SELECT delivery_id
                 FROM deployment_deliveries
                 JOIN deployments USING (deployment_id)
                WHERE application_id = $1
               )
         ORDER BY delivery_id
           FOR NO KEY UPDATE
        """,
        application_id,
    )
    await connection.execute("DELETE FROM applications WHERE application_id = $1", application_id)


async def select_states(connection: Connection, application_ids: Sequence[str]) -> dict[str, str]:
    """Return the status of each application's newest deployment that tells its state."""
    rows = await connection.fetch(
        """
        SELECT wanted.application_id, newest.status
          FROM unnest($1::text[]) AS wanted (application_id)
         CROSS JOIN LATERAL (
               SELECT status
                 FROM deployments d
                WHERE d.application_id = wanted.application_id AND d.status NOT IN ('superseded', 'cancelled')
                  AND (d.status <> 'unchanged' OR d.reason_code IS DISTINCT FROM 'no_image')
                ORDER BY d.created_at DESC
                LIMIT 1
               ) AS newest
        """,
        application_ids,
    )
    return {row["application_id"]: row["status"] for row in rows}
