"""Each table has a bound: what deletes its rows, or why there are never many. A new table without one fails here."""

from gateway.store.backup import select_tables
from gateway.store.database import Pool

_SET = "people make its rows, one by one, and delete them"
_WITH = "rows go with their {}"

#: what keeps each table from growing for ever
BOUNDS = {
    # What people set up.
    "alerts": _SET + "; those of a setting go when no gateway has it any more",
    "api_keys": _SET,
    "applications": _SET,
    "declared_objects": _WITH.format("object"),
    "domains": _WITH.format("application, of which people make them"),
    "endpoints": _SET,
    "environments": _SET,
    "gates": _SET,
    "group_members": _WITH.format("group or application"),
    "groups": _SET,
    "key_applications": _WITH.format("key or application"),
    "key_projects": _WITH.format("key or project"),
    "projects": _SET,
    "registries": _SET,
    "servers": _SET,
    "subscriptions": _WITH.format("application, of which people make them"),
    "labelled_applications": _WITH.format("application") + "; 1000 of an engine",
    # What grows by itself.
    "approval_answers": _WITH.format("approval"),
    "approval_links": _WITH.format("approval"),
    "approvals": "a number of closed ones of each gate of an application (`delete_surplus`), and with the application",
    "audit": "GATEWAY_AUDIT_DAYS, GATEWAY_AUDIT_ROWS",
    "deliveries": "GATEWAY_INBOX_DAYS, GATEWAY_INBOX_MEGABYTES",
    "delivery_keys": _WITH.format("delivery"),
    "deployment_askers": _WITH.format("deployment"),
    "deployment_deliveries": _WITH.format("deployment or delivery"),
    "deployments": "GATEWAY_DEPLOYMENTS_KEPT, GATEWAY_DEPLOYMENT_DAYS",
    "first_seen": "`first_seen.delete_unused`: some time after the last question, and 200,000 rows at most",
    "gate_overrides": _WITH.format("deployment"),
    "gate_verdicts": _WITH.format("deployment"),
    "inbox_spans": "one for ten minutes of the inbox, deleted with them",
    "oidc_people": "one for a person that the issuer knows; it goes with the key",
    "outbox_deliveries": "given up after three days and beyond 10,000 of an alert; GATEWAY_INBOX_DAYS and 100,000",
    "outbox_events": "with the last of their deliveries, else GATEWAY_INBOX_DAYS",
    "promotions": "`promotions.delete_surplus`: 100 of each application",
    "pulled_images": "one for an image on an engine; deleted when the image is removed or gone",
    "release_members": _WITH.format("release or application"),
    "releases": "`releases.delete_old`: GATEWAY_DEPLOYMENTS_KEPT of each group",
    "scan_reports": "GATEWAY_LOG_DAYS, and 1000 at most",
    "sign_in_links": "`sign_ins.delete_expired`, minutes after they were made",
    "sign_ins": "`sign_ins.delete_expired`, and with the key",
    "soaks": "`soaks.delete_surplus`: 50 of each application",
    "steps": "GATEWAY_LOG_DAYS, and with the deployment",
    # One row for something that is there.
    "engine_addresses": "one for an engine at a server; with the engine or the server",
    "engines": "one for each daemon that was ever reached: applications are bound to them",
    "installation": "one row",
    "labelled_objects": "one for what carries a label; `labelled.forget_gone` deletes it after what it is for",
    "looks": "one for what is polled; `poll_targets` deletes what nothing follows any more",
    "observations": "one for an application",
    "readiness_probes": "always empty: each write is rolled back",
    "serving": "one row",
    "swaps": "one for an application",
    "watches": "one for an application, until its window ends",
}


async def test_each_table_has_a_bound(web_pool: Pool) -> None:
    async with web_pool.acquire() as connection:
        tables = {table.name for table in await select_tables(connection)}
    assert tables - {"schema_migrations"} - BOUNDS.keys() == set(), "say in BOUNDS what keeps each of these small"
    assert BOUNDS.keys() - tables == set()
