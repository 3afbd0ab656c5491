"""`gateway deliveries`."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import click

from gateway.cli._completion import complete_sources, names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, print_rows, time_in
from gateway.cli._runner import (
    command,
    connect,
    indent,
    json_option,
    moment,
    print_fields,
    print_json,
    print_next_cursor,
    print_result,
    print_text,
)
from gateway.model.sanitize import safe_line

_VERDICTS = ["queued", "deployed", "superseded", "failed", "ignored", "duplicate", "rejected"]


@click.group()
def deliveries() -> None:
    """Show what registries have sent, and what the gateway did with it."""


_COLUMNS: Columns = {
    "ID": id_in("deliveryId"),
    "SOURCE": itemgetter("source"),
    "RECEIVED": time_in("receivedAt"),
    "VERDICT": itemgetter("verdict"),
    "WHY": itemgetter("why"),
}


@deliveries.command("list")
@click.option("--webhook", help="Only deliveries to this webhook.", shell_complete=names_of("webhook"))
@click.option("--source", help="Only deliveries of this source, for example harbor.", shell_complete=complete_sources)
@click.option("--verdict", type=click.Choice(_VERDICTS), help="Only deliveries with this verdict.")
@list_command(50)
async def list_deliveries(*, webhook: str | None, source: str | None, verdict: str | None, listing: Listing) -> None:
    """List deliveries, newest first."""
    async with connect() as gateway:
        given = {"source": source, "verdict": verdict}
        if webhook is not None:
            given["endpointId"] = await gateway.find("webhook", webhook)
        found, following = await listing.fetch(gateway, "delivery.all", given)
        names = {} if listing.as_json else await gateway.names(_applications(found))
    if listing.as_json:
        print_json(found)
    else:
        print_rows(_COLUMNS, [{**one, "why": _summary(one, names)} for one in found])
    print_next_cursor(following)


def _applications(found: Sequence[Mapping[str, Any]]) -> set[str]:
    return {one["applicationId"] for it in found for one in it["deployments"]}


def _summary(delivery: Mapping[str, Any], names: Mapping[str, str]) -> str:
    if delivery["duplicateOf"]:
        return f"of {delivery['duplicateOf']}"
    parts = [
        f"{names.get(one['applicationId'], one['applicationId'])}: {one['state']}" for one in delivery["deployments"]
    ]
    parts += [
        one["reason"]
        if one["reference"] and one["reason"].startswith(one["reference"])
        else f"{one['reference']} {one['reason']}".strip()
        for one in delivery["ignored"]
    ]
    return "; ".join(parts) + (f" ({delivery['times']} times)" if delivery["times"] > 1 else "")


@deliveries.command("show")
@click.argument("delivery", shell_complete=names_of("delivery"))
@json_option
@command
async def show_delivery(delivery: str, *, as_json: bool) -> None:
    """Show one delivery and its deployments.

    Its headers are shown without secrets, its body as received.
    """
    async with connect() as gateway:
        delivery_id = await gateway.find("delivery", delivery)
        found = await gateway.call("delivery.one", {"deliveryId": delivery_id})
        names = {} if as_json else await gateway.names(_applications([found]))
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "delivery": found["deliveryId"],
            "webhook": found["endpointId"],
            "source": found["source"],
            "received": moment(found["receivedAt"]),
            "verdict": found["verdict"],
            "why": _summary(found, names),
            "replay of": found["replayOf"],
        }
    )
    for one in found["deployments"]:
        print_text(f"deployment  {one['deploymentId']}  {one['state']}")
    print_text()
    for name, value in found["headers"].items():
        print_text(safe_line(f"  {name}: {value}"))
    print_text()
    print_text(indent(b64decode(found["bodyBase64"]).decode(errors="replace")))


@deliveries.command()
@click.argument("delivery", shell_complete=names_of("delivery"))
@json_option
@command
async def replay(delivery: str, *, as_json: bool) -> None:
    """Process a delivery again, as if it had just arrived."""
    async with connect() as gateway:
        delivery_id = await gateway.find("delivery", delivery)
        found = await gateway.call("delivery.replay", {"deliveryId": delivery_id})
        names = {} if as_json else await gateway.names(_applications([found]))
    print_result(
        found, f"{found['deliveryId']}  {found['verdict']}  {_summary(found, names)}".rstrip(), as_json=as_json
    )
