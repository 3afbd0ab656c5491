"""What labels request, and whether it was adopted, is listed for unrestricted admin keys."""

from datetime import datetime

from gateway.store import applications, labelled
from gateway.store.database import transaction
from gateway.store.engines import Place
from gateway.store.labelled import Paused
from tests.support.api_client import Web


async def test_what_labels_asked_for_is_listed_with_its_reason(web: Web) -> None:
    place = Place("engine", None)
    async with transaction(web.pool) as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ('engine', 'e', '1', 'l')"
        )
        adopted = await applications.insert_application(
            connection, application_id=None, name="Shop", app_name="shop", description=None
        )
        await labelled.upsert_application(
            connection, adopted, subscription_id=None, not_carried=["scope: every one"], paused=Paused.MONITOR_ONLY
        )
        for object_id, name, application_id, reason in (
            ("1", "shop", adopted, ""),
            ("2", "deleted", "gone", ""),
            ("3", "left", None, "no such label is read: gateway.x"),
        ):
            assert await labelled.begin_decision(connection, place, object_id, name=name, labels_hash="", known=None)
            assert not await labelled.begin_decision(
                connection, place, object_id, name=name, labels_hash="", known=None
            ), "another gateway decides it"
            await labelled.end_decision(connection, place, object_id, application_id=application_id, reason=reason)
    rows = await web.query("application.discovered")
    assert all(datetime.fromisoformat(row.pop("at")) for row in rows)
    nothing: dict[str, object] = {
        "serverId": None,
        "applicationId": None,
        "paused": None,
        "notCarried": [],
        "reason": "",
    }
    assert rows == [
        {
            **nothing,
            "name": "deleted",
            "reason": "its application was deleted; create the container again to have it adopted again",
        },
        {**nothing, "name": "left", "reason": "no such label is read: gateway.x"},
        {
            **nothing,
            "name": "shop",
            "applicationId": adopted,
            "paused": "monitor-only",
            "notCarried": ["scope: every one"],
        },
    ]
    await web.empty("labelled_objects", "applications")
