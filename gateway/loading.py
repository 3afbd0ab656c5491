"""Loads modules that few gateways need, and that take long to load, beside what else runs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module

_LOADED: set[str] = set()


async def load(*modules: str) -> None:
    """Load modules in a thread: where they are imported then, that takes no time. Raises what the import raises."""
    for name in modules:
        if name not in _LOADED:
            await run_once(partial(import_module, name))
            _LOADED.add(name)


async def run_once(act: Callable[[], object]) -> None:
    """Run it in a thread that ends after it: one that stays keeps its memory. When cancelled, the thread goes on."""
    thread = ThreadPoolExecutor(1, "load")
    try:
        await asyncio.get_running_loop().run_in_executor(thread, act)
    finally:
        thread.shutdown(wait=False)
