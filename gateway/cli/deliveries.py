"""`gateway deliveries`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from gateway.cli._runner import (
    command,
    indent,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
)
from gateway.model.sanitize import safe_line

if TYPE_CHECKING:
    from gateway.model.deliveries import Delivery
    from gateway.store.database import Connection

_VERDICTS = ["queued", "deployed", "superseded", "failed", "ignored", "duplicate", "rejected"]


@click.group()
def deliveries() -> None:
    """Show what registries have sent and what came of it."""


@deliveries.command("list")
@click.option("--webhook", help="Only deliveries to the webhook with this id.")
@click.option("--source", help="Only deliveries of this source, for example harbor.")
@click.option("--verdict", type=click.Choice(_VERDICTS), help="Only deliveries with this verdict.")
@paged(50)
@json_option
@command
async def list_deliveries(
    *,
    webhook: str | None,
    source: str | None,
    verdict: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List deliveries, newest first."""
    from gateway.api.procedures.delivery import DeliveryRow
    from gateway.model.deliveries import Verdict
    from gateway.store import delivery_log
    from gateway.store.database import statement

    wanted, page = Verdict(verdict) if verdict else None, parse_page(limit, cursor)
    async with open_storage() as storage, statement(storage.pool) as connection:
        found, following = await delivery_log.select_inbox(
            connection, endpoint_id=webhook, source=source, verdict=wanted, page=page
        )
        names = await _names(connection, found)
    if as_json:
        print_json([DeliveryRow.from_delivery(one) for one in found])
    else:
        rows = [(one.delivery_id, one.source, one.received_at, one.verdict, _summary(one, names)) for one in found]
        print_table(["ID", "SOURCE", "RECEIVED", "VERDICT", "WHY"], rows)
    print_next_cursor(following)


async def _names(connection: "Connection", found: "Sequence[Delivery]") -> dict[str, str]:
    """Return the names of the applications that these deliveries deployed, by id."""
    from gateway.store import applications

    return await applications.select_names(connection, {one.application_id for it in found for one in it.caused})


def _summary(delivery: "Delivery", names: Mapping[str, str]) -> str:
    if delivery.duplicate_of:
        return f"of {delivery.duplicate_of}"
    parts = [f"{names.get(one.application_id, one.application_id)}: {one.status}" for one in delivery.caused]
    parts += [
        one.reason
        if one.reference and one.reason.startswith(one.reference)
        else f"{one.reference} {one.reason}".strip()
        for one in delivery.ignored
    ]
    return "; ".join(parts) + (f" ({delivery.times} times)" if delivery.times > 1 else "")


@deliveries.command("show")
@click.argument("delivery")
@json_option
@command
async def show_delivery(delivery: str, *, as_json: bool) -> None:
    """Show one delivery and its deployments.

    Its headers are shown without secrets, its body as received.
    """
    from gateway.api.procedures.delivery import WholeDelivery
    from gateway.store import delivery_log
    from gateway.store.database import statement

    async with open_storage() as storage, statement(storage.pool) as connection:
        found, body = await delivery_log.select_delivery(connection, delivery)
        names = await _names(connection, [found])
    if as_json:
        print_json(WholeDelivery.with_body(found, body))
        return
    print_fields(
        {
            "delivery": found.delivery_id,
            "webhook": found.endpoint_id,
            "source": found.source,
            "received": found.received_at,
            "verdict": found.verdict,
            "why": _summary(found, names),
            "replay of": found.replay_of,
        }
    )
    for one in found.caused:
        print_text(f"deployment  {one.deployment_id}  {one.status}")
    print_text()
    for name, value in found.headers.items():
        print_text(safe_line(f"  {name}: {value}"))
    print_text()
    print_text(indent(body.decode(errors="replace")))


@deliveries.command()
@click.argument("delivery")
@json_option
@command
async def replay(delivery: str, *, as_json: bool) -> None:
    """Process a delivery again, as if it had just arrived."""
    from gateway.api.procedures.delivery import DeliveryRow
    from gateway.queue.replay import replay as replay_delivery
    from gateway.store import delivery_log
    from gateway.store.database import statement

    async with open_storage() as storage:
        receipt = await replay_delivery(storage.pool, storage.vault, delivery)
        async with statement(storage.pool) as connection:
            found, _ = await delivery_log.select_delivery(connection, receipt.delivery_id)
            names = await _names(connection, [found])
    if as_json:
        print_json(DeliveryRow.from_delivery(found))
    else:
        print_text(f"{found.delivery_id}  {found.verdict}  {_summary(found, names)}".rstrip())
