"""`gateway backup` and `gateway restore`."""

import sys
from pathlib import Path

import click

from gateway.cli._completion import complete_files
from gateway.cli._runner import command, interruptible, plain_json_option, print_json, print_text, read_secret
from gateway.model.errors import InvalidInput, Unavailable

_QUESTION = "Passphrase of the backup"
_FILE = click.Path(dir_okay=False, path_type=Path)
_passphrase_option = click.option(
    "--passphrase-file",
    metavar="FILE",
    help="File with the passphrase; - is standard input. Default: ask on the terminal.",
    shell_complete=complete_files,
)


def _passphrase(path: str | None, *, twice: bool) -> str:
    """Return the passphrase. Raises InvalidInput."""
    if (given := read_secret(path)) is not None:
        return given
    if not sys.stdin.isatty():
        raise InvalidInput(
            "there is no terminal to ask for the passphrase: give --passphrase-file FILE, or - for stdin"
        )
    with interruptible():
        return str(click.prompt(_QUESTION, hide_input=True, confirmation_prompt=twice, err=True))


@click.command()
@click.argument("file", type=_FILE)
@_passphrase_option
@click.option("--without-inbox", is_flag=True, help="Leave the deliveries out, which are most of a database.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--verify", is_flag=True, help="Write nothing: read the file to its end and say what it contains.")
@plain_json_option
@command
async def backup(
    *, file: Path, passphrase_file: str | None, without_inbox: bool, force: bool, verify: bool, as_json: bool
) -> None:
    """Write a backup of this host's gateway into FILE, while it serves.

    It contains the database and the master keys, sealed with the passphrase: without it, nobody can read or restore it.
    """
    from dataclasses import asdict

    from gateway.store import backup as backups

    if verify:
        found = backups.verify_backup(file, _passphrase(passphrase_file, twice=False))
    else:
        from gateway import config, installation
        from gateway.store.storage import open_unmigrated_storage

        settings = config.load()
        if settings.database_url is None and not installation.is_installed(settings.data_dir):
            raise Unavailable(
                f"there is nothing to back up: {settings.data_dir} has no database. Set GATEWAY_DATA_DIR or "
                "GATEWAY_DATABASE_URL, and run this as the gateway's user"
            )
        passphrase = backups.require_passphrase(_passphrase(passphrase_file, twice=True))
        async with open_unmigrated_storage(settings) as storage:
            found = await backups.write_backup(
                storage.pool,
                storage.vault.keyring.keys(),
                file,
                passphrase,
                inbox=not without_inbox,
                replaces=force,
            )
    if as_json:
        print_json({"file": str(file), **asdict(found)})
        return
    said = "is whole" if verify else "written, and read back"
    print_text(f"{file}: {said}, {found.size} bytes, {_count(found.rows)}")
    print_text(f"made at {found.created_at} by version {found.version}, schema {found.schema}")


def _count(rows: dict[str, int]) -> str:
    return f"{rows.get('applications', 0)} applications, {sum(rows.values())} rows in {len(rows)} tables"


@click.command()
@click.argument("file", type=_FILE)
@_passphrase_option
@plain_json_option
@command
async def restore(*, file: Path, passphrase_file: str | None, as_json: bool) -> None:
    """Restore a backup into an empty installation on this host.

    Nothing is changed unless all of the file is as it was written. Start the gateway afterwards: gateway serve.
    """
    from dataclasses import asdict

    from gateway import config
    from gateway.client.in_process import local_actor
    from gateway.store import restore as restoring
    from gateway.store.backup import verify_backup
    from gateway.store.storage import open_for_restore

    settings = config.load()
    passphrase = _passphrase(passphrase_file, twice=False)
    verify_backup(file, passphrase)  # before a database is made for it
    async with open_for_restore(settings) as storage:
        found, skipped, lost = await restoring.restore_backup(
            storage.pool, storage.vault.keyring, file, passphrase, local_actor("restore")
        )
    if as_json:
        print_json({"file": str(file), **asdict(found), "skipped": skipped, "lost": lost})
        return
    print_text(f"restored {_count(found.rows)}, as of {found.created_at}")
    if skipped:
        print_text(f"not restored, since they are not the gateway's: {', '.join(skipped)}", err=True)
    if lost:
        print_text(f"no key opens {len(lost)} secrets, set them again: {', '.join(lost[:5])}", err=True)
    print_text("Start it: gateway serve. Sign-ins and open links have ended.")
