"""`gateway open`."""

import click

from gateway.cli._runner import command, connect, json_option, print_result


@click.command("open")
@click.option(
    "--scope",
    type=click.Choice(["admin", "deploy", "read"]),
    default="admin",
    show_default=True,
    help="What the person who signs in may do.",
)
@json_option
@command
async def open_dashboard(*, scope: str, as_json: bool) -> None:
    """Print a link that signs in to the dashboard, once, within ten minutes.

    It signs in with a new API key that nobody sees; the key expires after twelve hours. Revoke it to sign out.
    """
    async with connect() as gateway:
        made = await gateway.call("key.signIn", {"scope": scope})
    print_result(
        {"link": made["link"], "key_id": made["keyId"], "expires_at": made["expiresAt"]}, made["link"], as_json=as_json
    )
