"""All procedures, by name. Each module holds those of one noun and lists them in its `procedures`.

A module is loaded when a procedure of its noun is asked for, or all are listed. Together they take five megabytes, and
most gateways are asked for few of them.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from importlib import import_module

from gateway.api.rpc.dispatch import Catalog
from gateway.api.rpc.procedure import Procedure
from gateway.loading import run_once

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


# These take a tenth of a second to load, and are loaded in a thread. The others are not: a thread takes a megabyte.
_SLOW = frozenset({"declaration", "gate"})

#: by noun, and by name in lower case
_LOADED: dict[str, Mapping[str, Procedure]] = {}


def _load(noun: str) -> Mapping[str, Procedure]:
    """Return the procedures of a noun, by their names in lower case."""
    if (known := _LOADED.get(noun)) is not None:
        return known
    found = [one for name in _MODULES[noun] for one in import_module(f"{__package__}.{name}").procedures]
    known = _LOADED[noun] = {one.name.lower(): one for one in found if one.router.lower() == noun}
    return known


def _noun_of(name: str) -> str:
    return name.lower().partition(".")[0]


class _Catalog(Catalog):
    """The procedures by name. A name is found in any case."""

    async def load(self, names: Collection[str] | None = None) -> None:
        wanted = _MODULES.keys() if names is None else _MODULES.keys() & set(map(_noun_of, names))
        for noun in sorted(wanted - _LOADED.keys()):
            if noun in _SLOW:
                await run_once(partial(_load, noun))
                continue
            for name in _MODULES[noun]:
                import_module(f"{__package__}.{name}")
                await asyncio.sleep(0)
            _load(noun)

    def __getitem__(self, name: str) -> Procedure:
        noun = _noun_of(name)
        if noun not in _MODULES:
            raise KeyError(name)
        return _load(noun)[name.lower()]

    def __iter__(self) -> Iterator[str]:
        for noun in _MODULES:
            yield from (one.name for one in _load(noun).values())

    def __len__(self) -> int:
        return sum(len(_load(noun)) for noun in _MODULES)


PROCEDURES: Catalog = _Catalog()
