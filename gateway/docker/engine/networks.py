"""Networks on an engine.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Network
"""

import difflib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from gateway.docker.engine import api_version
from gateway.docker.engine.client import Engine, checked_name
from gateway.docker.engine.labels import APPLICATION, BOOT
from gateway.model.errors import Code, Failed
from gateway.single_flight import SingleFlight

_NEAR = 3  # similar names to suggest
_NOT_CONNECTED = "is not connected to"


async def require(engine: Engine, name: str, *, overlay: bool = False) -> dict[str, Any]:
    """Return the network's inspection. Raises Failed when it is missing, with similar names that exist."""
    try:
        found: dict[str, Any] = await engine.call("GET", f"networks/{checked_name(name)}")
    except Failed as error:
        if error.reason.code is not Code.NETWORK_MISSING:
            raise
        there = [str(one["Name"]) for one in await engine.call("GET", "networks")]
        near = difflib.get_close_matches(name, there, _NEAR)
        near += [one for one in there if one not in near and one.endswith((f"_{name}", f"-{name}"))]
        meant = f" It has: {', '.join(map(repr, near[:_NEAR]))}." if near else ""
        how = f"docker network create {'--driver overlay --attachable ' if overlay else ''}{name}"
        raise Failed(Code.NETWORK_MISSING, f"the engine has no network {name!r}.{meant} Create it: {how}") from error
    return found


async def create_internal(engine: Engine, name: str, labels: Mapping[str, str]) -> None:
    """Create a bridge network without a route to other networks."""
    body = {"Name": checked_name(name), "Driver": "bridge", "Internal": True, "Labels": dict(labels)}
    await engine.call("POST", "networks/create", body=api_version.network_body(body, await engine.speaks()))


async def connect(engine: Engine, network: str, container_id: str, endpoint: Mapping[str, Any]) -> None:
    """Connect a container that is not on the network. A stopped one joins it when it starts."""
    body = {"Container": container_id, "EndpointConfig": dict(endpoint)}
    await engine.call("POST", f"networks/{checked_name(network)}/connect", body=body)


async def disconnect(engine: Engine, network: str, container_id: str) -> None:
    """Disconnect the container if it is on the network."""
    try:
        await engine.call("POST", f"networks/{checked_name(network)}/disconnect", body={"Container": container_id})
    except Failed as error:
        if _NOT_CONNECTED not in str(error):
            raise


async def list_labelled(engine: Engine, application_id: str) -> list[dict[str, Any]]:
    """Return the networks that were made for containers of the application to boot on.

    The networks of all applications are listed at once, since there are few. Callers that come while a list is made
    share the next list.
    """
    lists = _LISTS.setdefault(engine.original, SingleFlight())
    params = {"filters": orjson.dumps({"label": [BOOT]}).decode()}
    found = await lists.join_next(BOOT, lambda: engine.original.call("GET", "networks", params=params))
    return [one for one in found if (one["Labels"] or {}).get(APPLICATION) == application_id]


_LISTS: WeakKeyDictionary[Engine, SingleFlight[list[dict[str, Any]]]] = WeakKeyDictionary()


async def remove(engine: Engine, network_id: str) -> None:
    """Remove the network if it exists."""
    try:
        await engine.call("DELETE", f"networks/{checked_name(network_id)}")
    except Failed as error:
        if error.reason.code is not Code.NETWORK_MISSING:
            raise
