"""`gateway serve` and `gateway migrate`."""

import click

from gateway.cli._runner import command, json_option, print_json, print_text


@click.command()
@json_option
def serve(*, as_json: bool) -> None:
    """Run the gateway until it is stopped. Running deployments then finish or are put back."""
    import uvloop

    from gateway import app, config
    from gateway.cli import _logging

    settings = config.load()
    _logging.configure(settings.log_level, "json" if as_json else settings.log_format, queued=True)
    uvloop.run(app.serve(settings))


@click.command()
@json_option
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
    if as_json:
        print_json({"applied": applied})
    else:
        print_text("\n".join(f"applied {name}" for name in applied) or "up to date")
