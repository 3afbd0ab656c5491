"""`gateway open`."""

import getpass
import secrets
from datetime import UTC, datetime, timedelta

import click

from gateway.cli._runner import command, json_option, open_storage, print_json, print_text
from gateway.model.api_keys import Permission

_SIGNED_IN = timedelta(hours=12)
_LINK = timedelta(minutes=10)
_TOKEN_BYTES = 32


@click.command("open")
@click.option(
    "--scope",
    type=click.Choice([one.scope_name for one in reversed(Permission)]),
    default=Permission.ADMIN.scope_name,
    show_default=True,
    help="What the person who signs in may do.",
)
@json_option
@command
async def open_dashboard(*, scope: str, as_json: bool) -> None:
    """Print a link that signs in to the dashboard, once, within ten minutes.

    It signs in with a new API key that nobody sees; the key expires after twelve hours. Revoke it to sign out.
    """
    from gateway.model.errors import Unavailable
    from gateway.store import api_keys, gateway_address, sign_ins
    from gateway.store.database import transaction

    token = secrets.token_urlsafe(_TOKEN_BYTES)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        public_url, listens = await gateway_address.select_serving(connection)
        base = public_url or listens
        if base is None:
            raise Unavailable("no gateway has served with this database yet: gateway serve")
        _, key = await api_keys.insert_key(
            connection,
            f"{getpass.getuser()} (gateway open)",
            permission=Permission[scope.upper()],
            expires_at=datetime.now(UTC) + _SIGNED_IN,
        )
        await sign_ins.insert_link(connection, token, key.key_id, _LINK)
    link = f"{base.rstrip('/')}/dashboard/sign-in?link={token}"
    if as_json:
        print_json({"link": link, "key_id": key.key_id, "expires_at": key.expires_at})
    else:
        print_text(link)
