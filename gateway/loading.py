"""Loads modules that few gateways need, and that take long to load, beside what else runs."""

import asyncio
from importlib import import_module

_LOADED: set[str] = set()


async def load(*modules: str) -> None:
    """Load modules in a thread: where they are imported then, that takes no time. Raises what the import raises."""
    for name in modules:
        if name not in _LOADED:
            await asyncio.to_thread(import_module, name)
            _LOADED.add(name)
