"""Stores files from an application's configuration as Swarm secrets, which every node that runs a task receives.

A secret cannot be changed. So its name contains a hash of its content, and a changed file becomes a new secret.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Secret
"""

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from gateway.docker.engine.labels import APPLICATION, INSTALLATION, installation_label
from gateway.model.applications import Application
from gateway.model.errors import Code, Failed
from gateway.model.mounts import Mount

if TYPE_CHECKING:  # the spec of a service is computed without an engine
    from gateway.docker.engine.client import Engine

_MODE = 0o444


def secret_name(application: Application, file: Mount) -> str:
    """Return a name that is unique for the installation, the application and the content."""
    held = "\0".join((*installation_label(application).values(), application.application_id, file.content or ""))
    return f"gateway-{hashlib.sha256(held.encode()).hexdigest()[:40]}"


def references(application: Application, ids: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the spec's references to the secrets. `ids` maps names to ids."""
    found = []
    for file in application.configuration.files:
        name = secret_name(application, file)
        at = {"Name": file.target, "UID": "0", "GID": "0", "Mode": _MODE}
        found.append({"SecretID": ids.get(name, ""), "SecretName": name, "File": at})
    return found


def secret_ids(specs: Iterable[Mapping[str, Any] | None]) -> frozenset[str]:
    """Return the ids of the secrets in these specs."""
    containers = [(one or {}).get("TaskTemplate", {}).get("ContainerSpec", {}) for one in specs]
    return frozenset(one["SecretID"] for container in containers for one in container.get("Secrets") or ())


async def ensure(engine: "Engine", application: Application) -> dict[str, str]:
    """Create missing secrets and return all ids by name."""
    wanted = {secret_name(application, file): file for file in application.configuration.files}
    if not wanted:
        return {}
    ids = await _select(engine, application)
    for name, file in wanted.items():
        if name not in ids:
            ids[name] = await _create(engine, application, name, file)
    return {name: ids[name] for name in wanted}


async def prune(engine: "Engine", application: Application, *, used: Collection[str] = ()) -> None:
    """Remove the application's secrets except `used`."""
    from gateway.docker.engine.client import checked_name

    for secret_id in (await _select(engine, application)).values():
        if secret_id not in used:
            try:
                await engine.call("DELETE", f"secrets/{checked_name(secret_id)}")
            except Failed as error:
                # It is gone, or still in use: the Engine does not remove a secret that a service uses.
                if error.reason.code is not Code.ENGINE_REFUSED:
                    raise


async def _select(engine: "Engine", application: Application) -> dict[str, str]:
    filters = orjson.dumps({"label": [f"{APPLICATION}={application.application_id}"]}).decode()
    found = await engine.call("GET", "secrets", params={"filters": filters})
    return {one["Spec"]["Name"]: str(one["ID"]) for one in found if _is_ours(application, one["Spec"]["Labels"] or {})}


def _is_ours(application: Application, labels: Mapping[str, str]) -> bool:
    """Return whether the secret belongs to the application. Old secrets have no installation label."""
    installation = labels.get(INSTALLATION, "")
    return installation == application.installation_id or (
        not installation and bool(application.unlabelled_deployments)
    )


async def _create(engine: "Engine", application: Application, name: str, file: Mount) -> str:
    body = {
        "Name": name,
        "Labels": {APPLICATION: application.application_id, **installation_label(application)},
        "Data": base64.b64encode((file.content or "").encode()).decode(),
    }
    try:
        return str((await engine.call("POST", "secrets/create", body=body))["ID"])
    except Failed:
        # A delayed call of an earlier attempt has created it meanwhile.
        if (there := (await _select(engine, application)).get(name)) is not None:
            return there
        raise


def reject_empty(files: Sequence[Mount]) -> None:
    """Raise Failed for empty files, which a Swarm does not store."""
    if empty := [file.target for file in files if not file.content]:
        raise Failed(Code.BAD_CONFIGURATION, f"the file {empty[0]} is empty, and a Swarm stores no empty secrets")
