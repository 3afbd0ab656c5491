"""Who sets which gates, which of them apply, and asking them without deploying."""

from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.admin.gate_checks import next_openings
from gateway.gates import catalog
from gateway.model.api_keys import Permission
from gateway.model.gates import GateSetting, Level
from gateway.model.reference import Reference
from gateway.model.registries import Login
from gateway.registry.client import RegistryClient, Resolved
from gateway.store.gates import MOST
from tests.integration.api.test_api_keys import a_key, an_application, asking_with
from tests.support.api_client import Web
from tests.support.gatekeeping import Attempts, digest
from tests.support.rollout_env import RecordedAlerts
from tests.support.told_gate import REFUSES, WAITS, Told


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(catalog, "GATES", {**catalog.GATES, "told": told.gate()})
    return told


@pytest.fixture
async def ids(web: Web, told: Told) -> dict[str, str]:
    _ = told
    ids = await an_application(web, "mine")
    await web.mutate("gate.remove", gateId=ids.pop("gateId"))
    return ids


async def listed(web: Web, **owner: str) -> list[tuple[str, str, bool]]:
    return [(one["name"], one["level"], one["applies"]) for one in await web.query("gate.all", **owner)]


async def test_of_gates_with_one_name_the_nearest_applies_and_a_required_one_in_any_case(
    web: Web, ids: dict[str, str]
) -> None:
    project, environment, mine = ({name: ids[name]} for name in ("projectId", "environmentId", "applicationId"))
    await web.mutate("gate.create", **project, kind="told", name="a")
    await web.mutate("gate.create", **project, kind="told", name="b", required=True)
    await web.mutate("gate.create", **environment, kind="told", name="a")
    await web.mutate("gate.create", **mine, kind="told", name="a", enabled=False)
    await web.mutate("gate.create", **mine, kind="told", name="b")
    assert await listed(web, **mine) == [
        ("a", "application", False), ("a", "environment", False), ("a", "project", False),
        ("b", "application", True), ("b", "project", True),
    ]  # fmt: skip
    assert await listed(web, **environment) == [
        ("a", "environment", True), ("a", "project", False), ("b", "project", True),
    ]  # fmt: skip
    status, refused = await web.post("/api/gate.create", {**environment, "kind": "told", "name": "b", "enabled": False})
    assert (status, refused["message"]) == (409, "the gate b is required by the project, and cannot be turned off here")


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"kind": "nope"}, "kind", "'nope' is no kind of gate; there are: "),
        ({"kind": "told", "rule": {"kye": "x"}}, "rule.kye", "a gate of kind told has no such field; it has key, wait"),
        ({"kind": "told", "rule": {"wait": "long"}}, "rule.wait", "Input should be a valid number"),
        ({"kind": "told", "name": "a/b"}, "name", "is not a gate's name"),
        ({"kind": "told", "required": True}, "required", "an application's own gate is never replaced"),
        ({"kind": "told", "projectId": "default"}, "applicationId", "name one of applicationId, environmentId and"),
    ],
    ids=["kind", "unknown field", "wrong value", "name", "required", "two owners"],
)
async def test_what_is_wrong_with_a_gate_is_named(
    web: Web, ids: dict[str, str], given: dict[str, Any], field: str, message: str
) -> None:
    status, answer = await web.post("/api/gate.create", {"applicationId": ids["applicationId"], **given})
    assert status == 400
    assert message in answer["message"]
    assert answer["issues"][0]["path"] == field.split(".")


async def test_an_owner_has_a_bounded_number_of_gates_with_distinct_names(web: Web, ids: dict[str, str]) -> None:
    mine = {"applicationId": ids["applicationId"], "kind": "told"}
    for number in range(MOST):
        await web.mutate("gate.create", **mine, name=f"g{number}")
    assert (await web.post("/api/gate.create", {**mine, "name": "more"}))[0] == 400
    await web.mutate("gate.remove", gateId=(await web.query("gate.all", applicationId="mine"))[0]["gateId"])
    assert (await web.post("/api/gate.create", {**mine, "name": "g3"}))[0] == 409


async def test_a_gates_secret_is_encrypted_and_never_returned(web: Web, ids: dict[str, str]) -> None:
    given = {"applicationId": ids["applicationId"], "kind": "told", "secret": "of-the-gate"}
    _, made = await web.post("/api/gate.create", given)
    _, shown = await web.get("/api/gate.one", gateId=made["gateId"])
    assert made == {**shown, "secret": None}  # it was not made here
    assert made["hasSecret"] is True
    assert "of-the-gate" not in str(made)
    before = await web.pool.fetchval("SELECT secret FROM gates")
    assert b"of-the-gate" not in before
    await web.mutate("gate.update", gateId=made["gateId"], rule={"key": "x"})
    assert await web.pool.fetchval("SELECT secret FROM gates") == before


async def test_a_key_for_an_application_weakens_nothing_that_its_project_requires(
    web: Web, ids: dict[str, str], told: Told
) -> None:
    project, mine = {"projectId": ids["projectId"]}, {"applicationId": "mine"}
    required = await web.mutate("gate.create", **project, kind="told", required=True)
    elsewhere = await an_application(web, "elsewhere")
    told.answers["it"] = WAITS
    await Attempts(web.pool, catalog.GATES, RecordedAlerts()).run(digest(1))
    waiting = ids["deploymentId"]
    key, _ = await a_key(web, "mine", projects=[elsewhere["projectId"]])
    theirs = {"targetEnvironmentId": elsewhere["environmentId"]}
    override = {"deploymentId": waiting, "name": "told", "reason": "x"}
    async with asking_with(web, key):
        assert [one[0] for one in await listed(web, **mine)] == ["told"]
        for procedure, given in (
            ("gate.create", {**project, "kind": "told", "name": "told", "enabled": False}),
            ("gate.create", {**project, **mine, "kind": "told"}),
            ("gate.update", {"gateId": required["gateId"], "required": False}),
            ("gate.remove", {"gateId": required["gateId"]}),
            ("gate.override", override),
            ("application.move", {**mine, **theirs}),
            ("application.update", {**mine, "environmentId": elsewhere["environmentId"]}),
        ):
            assert (await web.post(f"/api/{procedure}", given))[0] == 403, procedure
        own = await web.mutate("gate.create", **mine, kind="told", name="own")
        await web.mutate("gate.remove", gateId=own["gateId"])
    deploying, _ = await a_key(web, projects=[ids["projectId"]], permission=Permission.DEPLOY)
    async with asking_with(web, deploying):
        assert (await web.post("/api/gate.override", override))[0] == 403
    whole, _ = await a_key(web, projects=[ids["projectId"]])
    async with asking_with(web, whole):
        assert await web.mutate("gate.override", **override) == {"deploymentId": waiting}


async def test_gates_go_with_what_they_are_set_on(web: Web, ids: dict[str, str]) -> None:
    made = await web.mutate("environment.create", projectId=ids["projectId"], name="staging")
    await web.mutate("gate.create", environmentId=made["environmentId"], kind="told")
    await web.mutate("environment.remove", environmentId=made["environmentId"])
    assert await web.count("gates") == 0


# -- asking without deploying


async def test_a_check_asks_the_gates_once_at_a_time_and_leaves_nothing_behind(
    web: Web, ids: dict[str, str], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(_client: RegistryClient, _reference: Reference, _login: Login) -> Resolved:
        return Resolved(digest(7))

    monkeypatch.setattr(RegistryClient, "resolve", resolve)
    mine = {"applicationId": ids["applicationId"]}
    assert (await web.mutate("gate.check", **mine))["verdict"] == "passed"  # there are no gates
    await web.mutate("gate.create", **mine, kind="told")
    await web.mutate("gate.create", **mine, kind="told", name="another", rule={"key": "another"})
    told.answers = {"it": WAITS, "another": REFUSES}
    meanwhile: list[int] = []

    async def check_again() -> None:
        if not meanwhile:
            meanwhile.append(0)
            meanwhile[0] = (await web.post("/api/gate.check", mine))[0]

    told.meanwhile = check_again
    checked = await web.mutate("gate.check", **mine, image="acme/other:v1")
    assert meanwhile == [429]
    assert (checked["verdict"], checked["image"]) == ("refused", f"docker.io/acme/other:v1@{digest(7)}")
    assert [(one["name"], one["verdict"]) for one in checked["gates"]] == [("another", "refused"), ("told", "unknown")]
    assert all(one.only_checked for one in told.asked)
    assert await web.count("gate_verdicts") == 0
    key, _ = await a_key(web, ids["applicationId"], permission=Permission.DEPLOY)
    async with asking_with(web, key):
        assert (await web.mutate("gate.check", **mine, image="acme/mine:v2"))["verdict"] == "refused"
        assert (await web.post("/api/gate.check", {**mine, "image": "acme/other:v1"}))[0] == 403


# -- when they open


def test_several_gates_about_time_open_together() -> None:
    now = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)

    def setting(name: str, *windows: dict[str, str], mode: str = "deploy") -> GateSetting:
        rule = {"mode": mode, "windows": [{"zone": "UTC", **one} for one in windows]}
        return GateSetting(
            name, Level.APPLICATION, "a", "window", name, rule, enabled=True, required=False, created_at=now
        )

    night = setting("night", {"start": "22:00", "duration": "4h"})
    evening = setting("evening", {"start": "18:00", "duration": "5h"})
    found, together = next_openings([night, evening], now)
    assert [(one.is_open, one.opens_at) for one in found] == [
        (False, now.replace(hour=22)), (False, now.replace(hour=18)),
    ]  # fmt: skip
    assert together == now.replace(hour=22)
    frozen = setting("freeze", {"start": "21:00", "duration": "90m"}, mode="freeze")
    assert next_openings([night, evening, frozen], now)[1] == now.replace(hour=22, minute=30)
    noon = setting("noon", {"start": "12:00", "duration": "1h"})
    assert next_openings([noon, night], now)[1] is None
    assert next_openings([noon], now) == (next_openings([noon], now)[0], now)
