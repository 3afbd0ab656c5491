"""All procedures, by name. Each module holds those of one noun and lists them in its `procedures`.

A module is loaded when a procedure of its noun is asked for, or all are listed. Together they take five megabytes, and
most gateways are asked for few of them.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from gateway.api.rpc.procedure import Procedure

#: the modules of each noun, which is the part of a procedure's name before the dot, in lower case
_MODULES: Mapping[str, tuple[str, ...]] = {
    "alert": ("alert",),
    "application": (
        "application",
        "application_adopt",
        "application_deploy",
        "application_logs",
        "application_pending",
        "application_search",
    ),
    "approval": ("approval",),
    "audit": ("audit",),
    "declaration": ("declaration",),
    "delivery": ("delivery",),
    "deployment": ("deployment", "deployment_queue"),
    "domain": ("domain",),
    "environment": ("environment",),
    "gate": ("gate",),
    "group": ("group",),
    "key": ("key",),
    "lookup": ("lookup",),
    "mounts": ("mounts",),
    "port": ("port",),
    "project": ("project",),
    "promotion": ("promotion",),
    "registry": ("registry",),
    "release": ("release",),
    "rollback": ("rollback",),
    "server": ("server",),
    "settings": ("settings",),
    "status": ("status",),
    "subscription": ("subscription",),
    "certificates": ("unsupported",),
    "sshkey": ("unsupported",),
    "schedule": ("unsupported",),
    "destination": ("unsupported",),
    "notification": ("unsupported",),
    "gitprovider": ("unsupported",),
    "user": ("user",),
    "webhook": ("webhook",),
}


@cache
def _load(noun: str) -> Mapping[str, Procedure]:
    """Return the procedures of a noun, by their names in lower case."""
    found = [one for name in _MODULES[noun] for one in import_module(f"{__package__}.{name}").procedures]
    return {one.name.lower(): one for one in found if one.router.lower() == noun}


class _Catalog(Mapping[str, Procedure]):
    """The procedures by name. A name is found in any case."""

    def __getitem__(self, name: str) -> Procedure:
        wanted = name.lower()
        noun = wanted.partition(".")[0]
        if noun not in _MODULES:
            raise KeyError(name)
        return _load(noun)[wanted]

    def __iter__(self) -> Iterator[str]:
        for noun in _MODULES:
            yield from (one.name for one in _load(noun).values())

    def __len__(self) -> int:
        return sum(len(_load(noun)) for noun in _MODULES)


PROCEDURES: Mapping[str, Procedure] = _Catalog()
