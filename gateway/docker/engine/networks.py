"""Networks on an engine.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Network
"""

import difflib
from typing import Any

from gateway.docker.engine.client import Engine, checked_name
from gateway.model.errors import Code, Failed

_NEAR = 3  # similar names to suggest


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
