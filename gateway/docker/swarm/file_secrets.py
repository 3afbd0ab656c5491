"""Files with the content an application's user wrote, as secrets of a Swarm: each node that runs a task gets them.

A secret cannot be changed. So each is named by what it holds, and the spec names another one where that changes.
"""

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from gateway.docker.engine.client import Engine, checked_name
from gateway.docker.engine.labels import APPLICATION, INSTALLATION, installation_label
from gateway.model.applications import Application
from gateway.model.errors import Code, Failed
from gateway.model.mounts import Mount

_MODE = 0o444


def secret_name(application: Application, file: Mount) -> str:
    """Return a name that no other application has, of another installation neither, and no other content."""
    held = "\0".join((*installation_label(application).values(), application.application_id, file.content or ""))
    return f"gateway-{hashlib.sha256(held.encode()).hexdigest()[:40]}"


def references(application: Application, ids: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what a service's spec says of the files; `ids` gives those of the secrets by their names."""
    found = []
    for file in application.configuration.files:
        name = secret_name(application, file)
        at = {"Name": file.target, "UID": "0", "GID": "0", "Mode": _MODE}
        found.append({"SecretID": ids.get(name, ""), "SecretName": name, "File": at})
    return found


def secret_ids(specs: Iterable[Mapping[str, Any] | None]) -> frozenset[str]:
    """Return the ids of the secrets that these specs name."""
    containers = [(one or {}).get("TaskTemplate", {}).get("ContainerSpec", {}) for one in specs]
    return frozenset(one["SecretID"] for container in containers for one in container.get("Secrets") or ())


async def ensure(engine: Engine, application: Application) -> dict[str, str]:
    """Make the secrets that are missing, and return the ids of all by their names."""
    wanted = {secret_name(application, file): file for file in application.configuration.files}
    if not wanted:
        return {}
    ids = await _select(engine, application)
    for name, file in wanted.items():
        if name not in ids:
            ids[name] = await _create(engine, application, name, file)
    return {name: ids[name] for name in wanted}


async def prune(engine: Engine, application: Application, *, used: Collection[str] = ()) -> None:
    """Remove the application's secrets that no spec names any more."""
    for secret_id in (await _select(engine, application)).values():
        if secret_id not in used:
            try:
                await engine.call("DELETE", f"secrets/{checked_name(secret_id)}")
            except Failed as error:
                # Gone, or still another's: the Engine does not let go of one that a service has.
                if error.reason.code is not Code.ENGINE_REFUSED:
                    raise


async def _select(engine: Engine, application: Application) -> dict[str, str]:
    filters = orjson.dumps({"label": [f"{APPLICATION}={application.application_id}"]}).decode()
    found = await engine.call("GET", "secrets", params={"filters": filters})
    return {one["Spec"]["Name"]: str(one["ID"]) for one in found if _is_ours(application, one["Spec"]["Labels"] or {})}


def _is_ours(application: Application, labels: Mapping[str, str]) -> bool:
    """Tell whether the secret is the application's; one made before there were installations tells of none."""
    installation = labels.get(INSTALLATION, "")
    return installation == application.installation_id or (
        not installation and bool(application.unlabelled_deployments)
    )


async def _create(engine: Engine, application: Application, name: str, file: Mount) -> str:
    body = {
        "Name": name,
        "Labels": {APPLICATION: application.application_id, **installation_label(application)},
        "Data": base64.b64encode((file.content or "").encode()).decode(),
    }
    try:
        return str((await engine.call("POST", "secrets/create", body=body))["ID"])
    except Failed:
        # By a call of an attempt that died, which has landed only now.
        if (there := (await _select(engine, application)).get(name)) is not None:
            return there
        raise


def reject_empty(files: Sequence[Mount]) -> None:
    """Raises Failed for what a Swarm does not keep."""
    if empty := [file.target for file in files if not file.content]:
        raise Failed(Code.BAD_CONFIGURATION, f"the file {empty[0]} is empty, and a Swarm keeps no empty secret")
