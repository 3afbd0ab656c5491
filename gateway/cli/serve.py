"""`gateway serve` and `gateway migrate`."""

import ctypes
import gc
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

import click

from gateway.cli._errors import readable_error
from gateway.cli._runner import command, plain_json_option, print_result

if TYPE_CHECKING:
    from gateway.config import Settings

# Parameters of glibc's mallopt(3), and their value: the default, which is fixed by being set.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLD = 128 * 1024  # bytes


@click.command()
@plain_json_option
def serve(*, as_json: bool) -> None:
    """Run the gateway until it is stopped. Running deployments then finish or are put back."""
    # Modules stay, and requests live shortly and in no cycles: look for cycles less often.
    gc.set_threshold(20_000, 20, 50)
    from gateway import config, service_manager

    try:
        settings = config.load()
        with _making_the_database(settings):  # takes as long as the imports
            import uvloop

            from gateway import app
            from gateway.cli import _logging
            from gateway.event_loop import EventLoop

            _return_freed_memory()
            _logging.configure(settings.log_level, "json" if as_json else settings.log_format, queued=True)
        uvloop.run(app.serve(settings, as_json=as_json), loop_factory=EventLoop)
    except Exception as error:
        service_manager.notify(readable_error(error))
        raise


def _making_the_database(settings: "Settings") -> AbstractContextManager[None]:
    """Create the embedded database beside the block, if that is the one and there is none."""
    from gateway.store.postgres_cluster import making

    return nullcontext() if settings.database_url is not None else making(settings.data_dir)


def _return_freed_memory() -> None:
    """Let the memory of a large answer go back to the system; glibc would keep it, and more after each larger one."""
    with suppress(AttributeError):  # another C library
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, _THRESHOLD)


@click.command()
@plain_json_option
@command
async def migrate(*, as_json: bool) -> None:
    """Migrate the database to the current schema.

    All commands that use the database do this first.
    """
    from gateway import config
    from gateway.store import migrate as migrations
    from gateway.store.storage import open_pool

    async with open_pool(config.load()) as pool:
        applied = [migration.name for migration in await migrations.migrate(pool)]
    print_result(
        {"applied": applied}, "\n".join(f"applied {name}" for name in applied) or "up to date", as_json=as_json
    )
