"""Alerts on the page: made, changed, tested, and what was given up sent again."""

import re

from tests.integration.dashboard.visitor import Visitor
from tests.support.api_client import Web

PAGE = "/dashboard/alerts"


async def test_an_alert_is_made_tested_changed_and_removed_on_its_page(web: Web) -> None:
    visitor = Visitor(web)
    await visitor.sign_in()
    assert "There is no alert yet" in (await visitor.get(PAGE)).text
    # As browsers send a list of which several are chosen.
    fields = {"name": "<b>log</b>", "receiver": "webhook", "address": "http://127.0.0.1:9/x", "allowPrivate": "true"}
    made = await visitor.call("alert.create", PAGE, **fields, **{"events[]": "failed\nsucceeded"})
    secret = re.findall(r'id="once-secret">(whsec_[^<]+)<', made.text)
    assert len(secret) == 1, made.text
    page = (await visitor.get(PAGE)).text
    assert "&lt;b&gt;log&lt;/b&gt;" in page
    assert secret[0] not in page
    (alert,) = await web.query("alert.all")
    assert alert["events"] == ["failed", "succeeded"]
    tried = await visitor.call("alert.test", PAGE, alertId=alert["alertId"])
    assert (tried.status, "It did not work" in tried.text) == (200, True)
    rotated = await visitor.call("alert.update", PAGE, alertId=alert["alertId"], rotateSecret="true")
    assert "whsec_" in rotated.text
    assert "whsec_" not in (await visitor.call("alert.update", PAGE, alertId=alert["alertId"], enabled="false")).text
    assert "turned off" in (await visitor.get(PAGE)).text
    assert (await visitor.call("alert.replay", PAGE, alertId=alert["alertId"])).status == 303
    assert (await visitor.call("alert.remove", PAGE, alertId=alert["alertId"])).status == 303
    assert await web.query("alert.all") == []
