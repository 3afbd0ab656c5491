"""Tests of declaration.*: plan, apply and export on a real database."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.store import api_keys, endpoints
from tests.support.api_client import VAULT, Web
from tests.support.declaring import Declaring

DOCUMENT: dict[str, Any] = {
    "declaration": "shop",
    "registries": {"ghcr": {"registryUrl": "ghcr.io", "username": "bot", "passwordFrom": {"env": "TOKEN"}}},
    "servers": {"far": {"host": "tcp://10.0.0.5:2375"}},
    "projects": {
        "shop": {
            "env": {"STAGE": "live"},
            "gates": {"maturity": {"rule": {"age": "1h"}}},
            "environments": {
                "production": {
                    "env": {"HOST": "example.org"},
                    "applications": {
                        "web": {
                            "dockerImage": "ghcr.io/acme/web:1",
                            "env": {"URL": "https://${{environment.HOST}}", "PORT": 8080},
                            "envFrom": {"DB": {"env": "DB"}},
                            "ports": [{"targetPort": 80, "publishedPort": 8080}],
                            "mounts": [
                                {"source": "web-data", "target": "/data"},
                                {"type": "file", "target": "/etc/web.conf", "contentFrom": {"file": "web.conf"}},
                            ],
                            "subscriptions": [{"policy": "semver", "pattern": "^1.2"}],
                            "gates": {"staged": {"kind": "promotion", "rule": {"follows": "shop/staging/web"}}},
                            "memoryLimit": "512m",
                            "reconcile": 300,
                        },
                    },
                },
                "staging": {"applications": {"web": {"dockerImage": "ghcr.io/acme/web:main"}}},
            },
        }
    },
    "applications": {"api": {"dockerImage": "ghcr.io/acme/api", "username": "me", "passwordFrom": {"env": "PASS"}}},
    "groups": {"all": {"settle": 60, "members": {"api": 1, "shop/production/web": 2}}},
    "webhooks": {"ci": {"source": "github", "repositories": ["ghcr.io/acme/*"]}, "hub": {"source": "dockerhub"}},
    "keys": {"ci": {"scope": "deploy", "projects": ["shop"], "applications": ["api"]}},
}


@pytest.fixture
def declaring(web: Web) -> Declaring:
    return Declaring(web)


async def test_what_was_applied_needs_no_change_and_is_exported_as_it_was_declared(declaring: Declaring) -> None:
    planned = await declaring.plan(DOCUMENT)
    assert {one["action"] for one in planned["objects"]} <= {"created", "changed"}, planned
    applied = await declaring.apply(DOCUMENT)
    assert applied["keys.ci"]["printed"]["key"].startswith("gw_")
    again = await declaring.plan(DOCUMENT)
    assert not again["differs"], [one for one in again["objects"] if one["action"] != "unchanged"]
    exported = await declaring.web.query("declaration.export")
    assert not (await declaring.plan({**exported["document"], "declaration": "shop"}))["differs"]
    assert not (await declaring.plan(exported["document"]))["differs"]
    unnamed = {"applications": {"only": {"description": "changed"}}}
    await declaring.apply({"declaration": "other", "applications": {"only": {}}})
    await declaring.apply(unnamed)
    assert (await declaring.plan({"declaration": "other"}, prune=True))["objects"][0]["path"] == [
        "applications",
        "only",
    ]
    assert "DB-secret" not in str(exported)


async def test_a_plan_changes_nothing_and_shows_no_secret(declaring: Declaring) -> None:
    tables = ("applications", "projects", "endpoints", "api_keys", "groups", "servers", "registries", "gates")
    before = [await declaring.web.count(table) for table in tables]
    declaring.secrets = {"projects.shop.environments.production.applications.web.envFrom.DB": "hidden-1"}
    planned = await declaring.plan(DOCUMENT)
    assert [await declaring.web.count(table) for table in tables] == before
    web = next(one for one in planned["objects"] if one["path"][-1] == "web" and "production" in one["path"])
    assert {one["field"] for one in web["pending"]} >= {"dockerImage", "env", "ports", "memoryLimit"}
    assert {"field": "password", "before": None, "after": "(secret)"} in [
        change for one in planned["objects"] for change in one["changes"]
    ]
    assert "-secret" not in str(planned)
    assert "hidden-1" not in str(planned)


async def test_what_somebody_changed_since_the_plan_is_left_as_it_is(declaring: Declaring) -> None:
    document = {"applications": {"web": {"dockerImage": "acme/web:1"}}}
    await declaring.apply(document)
    changed = {"applications": {"web": {"dockerImage": "acme/web:2"}}}
    (planned,) = (await declaring.plan(changed))["objects"]
    assert planned["changes"] == [{"field": "dockerImage", "before": "acme/web:1", "after": "acme/web:2"}]
    (row,) = await declaring.web.query("application.all")
    await declaring.web.mutate("application.update", applicationId=row["applicationId"], description="by hand")
    status, answer = await declaring.apply_one(changed, planned)
    assert status == 409, answer
    assert "was changed since the plan" in answer["message"]
    status, answer = await declaring.apply_one(changed, planned, version=None)
    assert "was made since the plan" in answer["message"]
    await declaring.apply(changed)
    (row,) = await declaring.web.query("application.all")
    assert (row["dockerImage"], row["description"]) == ("acme/web:2", None)


async def test_only_what_was_made_for_a_declaration_is_removed_with_it(declaring: Declaring) -> None:
    await declaring.web.mutate("application.create", name="hand", dockerImage="acme/hand:1")
    document: dict[str, Any] = {
        "declaration": "mine",
        "applications": {"hand": {"dockerImage": "acme/hand:1"}, "web": {"dockerImage": "acme/web:1"}},
        "projects": {"shop": {"environments": {"staging": {"applications": {"web": {}}}}}},
        "keys": {"ci": {"scope": "read"}},
    }
    await declaring.apply(document)
    empty = {"declaration": "mine"}
    assert not (await declaring.plan(empty))["differs"]
    status, answer = await declaring.call("declaration.plan", {"document": {}, "prune": True})
    assert (status, "name the declaration" in answer["message"]) == (400, True), answer
    theirs = {"declaration": "other", "applications": {"hand": {"dockerImage": "acme/hand:2"}}}
    (row,) = (await declaring.plan(theirs, takeOver=False))["objects"]
    assert (row["action"], "other did not make it" in row["error"]["message"]) == ("refused", True), row
    assert not (await declaring.plan(document, takeOver=False))["differs"]
    other = await declaring.plan({"declaration": "other"}, prune=True)
    assert not other["differs"]
    planned = await declaring.plan(empty, prune=True)
    removed = [".".join(one["path"]) for one in planned["objects"] if one["action"] == "removed"]
    assert removed == [
        "keys.ci",
        "projects.shop.environments.staging.applications.web",
        "applications.web",
        "projects.shop.environments.staging",
        "projects.shop",
    ]
    status, answer = await declaring.apply_one({"declaration": "other"}, planned["objects"][2])
    assert status == 409, answer
    limited = await declaring.plan(empty, prune=True, project="Default")
    assert [one["path"] for one in limited["objects"]] == [["applications", "web"]]
    for one in planned["objects"]:
        status, answer = await declaring.apply_one(empty, one)
        assert status == 200, answer
    assert [one["name"] for one in await declaring.web.query("application.all")] == ["hand"]


async def test_a_restricted_key_plans_and_applies_only_what_it_is_for(declaring: Declaring) -> None:
    await declaring.apply(DOCUMENT)
    projects = {one["name"]: one["projectId"] for one in await declaring.web.query("project.all")}
    made = await declaring.web.mutate("user.createApiKey", name="shop", scope="admin", projectIds=[projects["shop"]])
    restricted = Declaring(declaring.web, made["key"])
    mine = {"projects": DOCUMENT["projects"], "declaration": "shop"}
    assert not (await restricted.plan(mine))["differs"]
    exported = (await restricted.call_query("declaration.export"))["document"]
    assert exported["projects"].keys() == {"shop"}
    assert exported.keys() == {"projects"}
    refused = {one["path"][0]: one["error"] for one in (await restricted.plan(DOCUMENT))["objects"] if one["error"]}
    assert refused.keys() == {"registries", "servers", "applications", "groups", "webhooks", "keys"}
    assert "needs an unrestricted key" in refused["servers"]["message"]
    bind = {"projects": {"shop": {"environments": {"staging": {"applications": {
        "new": {"dockerImage": "x", "mounts": [{"type": "bind", "source": "/", "target": "/host"}]}
    }}}}}}  # fmt: skip
    (planned,) = [one for one in (await restricted.plan(bind))["objects"] if one["action"] != "unchanged"]
    assert "is restricted: it may not let an application" in planned["error"]["message"]
    status, answer = await restricted.apply_one(bind, {**planned, "version": None})
    assert status == 403, answer
    assert await declaring.web.count("applications") == 3

    deploys = await declaring.web.mutate("user.createApiKey", name="deploys", scope="deploy")
    status, answer = await Declaring(declaring.web, deploys["key"]).call("declaration.plan", {"document": {}})
    assert status == 403, answer


async def test_a_restricted_key_does_not_see_what_a_declaration_made_for_others(declaring: Declaring) -> None:
    def project(name: str) -> dict[str, Any]:
        return {
            "environments": {"production": {"applications": {name: {"dockerImage": f"acme/{name}", "command": name}}}}
        }

    declaring.secrets = {"alerts.theirs.addressFrom": "https://hooks.example.com/hidden"}
    await declaring.apply({
        "declaration": "whole",
        "projects": {"mine": project("web"), "theirs": project("secret")},
        "applications": {"alone": {"dockerImage": "acme/secret"}},
        "groups": {"ours": {"members": {"mine/production/web": 1}}, "all": {"members": {"alone": 1, "web": 1}}},
        "alerts": {"theirs": {"receiver": "webhook", "addressFrom": {"env": "HOOK"}, "project": "theirs"}},
        "webhooks": {"hub": {"source": "dockerhub"}},
    })  # fmt: skip
    projects = {one["name"]: one["projectId"] for one in await declaring.web.query("project.all")}
    made = await declaring.web.mutate("user.createApiKey", name="mine", scope="admin", projectIds=[projects["mine"]])
    restricted = Declaring(declaring.web, made["key"])
    planned = (await restricted.plan({"declaration": "whole"}, prune=True))["objects"]
    paths = [".".join(one["path"]) for one in planned]
    assert paths == ["groups.ours", "projects.mine.environments.production.applications.web", "projects.mine"]
    assert "secret" not in str(planned)


async def test_an_object_is_applied_whole_or_not_at_all(declaring: Declaring) -> None:
    document = {
        "applications": {
            "web": {
                "dockerImage": "acme/web:1",
                "subscriptions": [{"policy": "semver", "pattern": "^1"}],
                "gates": {"maturity": {"rule": {"age": "soon"}}},
            }
        }
    }
    (planned,) = (await declaring.plan(document))["objects"]
    assert planned["action"] == "refused"
    assert planned["error"]["field"] == "gates.maturity.rule.age"
    status, answer = await declaring.apply_one(document, {**planned, "version": None})
    assert status == 400, answer
    assert answer["issues"][0]["path"] == ["gates", "maturity", "rule", "age"]
    assert await declaring.web.count("applications") == 0


async def test_a_secret_that_stays_unchanged_must_be_there(declaring: Declaring) -> None:
    document = {"applications": {"web": {"dockerImage": "acme/web:1", "envFrom": {"TOKEN": "unchanged"}}}}
    (planned,) = (await declaring.plan(document))["objects"]
    assert planned["error"]["field"] == "envFrom.TOKEN"
    await declaring.apply({"applications": {"web": {"dockerImage": "acme/web:1", "env": {"TOKEN": "x"}}}})
    assert not (await declaring.plan(document))["differs"]
    both = {
        "applications": {"web": {"dockerImage": "acme/web:1", "envFrom": {"TOKEN": "unchanged"}, "env": {"B": "1"}}}
    }
    (planned,) = (await declaring.plan(both))["objects"]
    assert planned["changes"] == [{"field": "env", "before": ["TOKEN"], "after": "B added"}]


async def test_a_webhook_keeps_its_path_and_its_secret_when_it_changes(declaring: Declaring) -> None:
    document = {"webhooks": {"ci": {"source": "github"}}}
    applied = await declaring.apply(document)
    path, secret = applied["webhooks.ci"]["printed"]["path"], applied["webhooks.ci"]["printed"]["secret"]
    changed = {"webhooks": {"ci": {"source": "github", "rate": 60, "networks": ["192.0.2.1"], "enabled": False}}}
    again = await declaring.apply(changed)
    assert again["webhooks.ci"]["printed"] == {}
    assert not (await declaring.plan(changed))["differs"]
    (row,) = await declaring.web.query("webhook.all")
    assert (row["rate"], row["networks"], row["enabled"]) == (60, ["192.0.2.1/32"], False)
    async with declaring.web.pool.acquire() as connection:
        found = await endpoints.select_endpoint(connection, VAULT, "github", path.rpartition("/")[2])
    assert found.secret == secret
    (planned,) = (await declaring.plan({"webhooks": {"ci": {"source": "quay"}}}))["objects"]
    assert "keeps its source" in planned["error"]["message"]


async def test_alerts_are_declared_without_their_addresses(declaring: Declaring) -> None:
    document: dict[str, Any] = {
        "declaration": "tell",
        "applications": {"web": {"dockerImage": "acme/web:1"}},
        "projects": {"shop": {}},
        "alerts": {
            "log": {"receiver": "webhook", "addressFrom": {"env": "URL"}, "project": "shop", "events": ["failed"]},
            "commits": {"receiver": "github", "tokenFrom": {"env": "TOKEN"}, "repositories": ["acme/*"]},
            "web": {"receiver": "gitea", "address": "https://git.example.com/", "tokenFrom": {"env": "T"},
                    "application": "web"},
        },
    }  # fmt: skip
    declaring.secrets = {"alerts.log.addressFrom": "https://hooks.example.com/hidden-1"}
    applied = await declaring.apply(document)
    assert applied["alerts.log"]["printed"]["secret"].startswith("whsec_")
    assert not (await declaring.plan(document))["differs"]
    exported = (await declaring.web.query("declaration.export"))["document"]
    assert "hidden-1" not in str(exported)
    assert exported["alerts"]["web"]["address"] == "https://git.example.com"
    assert not (await declaring.plan(exported))["differs"]
    declaring.secrets["alerts.log.addressFrom"] = "https://hooks.example.com/hidden-2"
    document["alerts"]["log"] |= {"enabled": False, "quietHours": [{"start": "22:00", "duration": "8h", "zone": "UTC"}]}
    del document["alerts"]["log"]["events"], document["alerts"]["commits"]
    changed = await declaring.apply(document, prune=True)
    assert {name: one["action"] for name, one in changed.items()} == {
        "alerts.log": "changed",
        "alerts.commits": "removed",
    }
    assert not (await declaring.plan(document, prune=True))["differs"]
    document["alerts"]["log"]["receiver"] = "apprise"
    (refused,) = [one for one in (await declaring.plan(document))["objects"] if one["error"]]
    assert refused["path"] == ["alerts", "log"]


async def test_a_secret_that_is_only_kept_does_not_go_elsewhere(declaring: Declaring) -> None:
    ours, theirs = "https://git.example.com", "https://elsewhere.example.com"
    document: dict[str, Any] = {
        "alerts": {"git": {"receiver": "gitea", "address": ours, "tokenFrom": {"env": "T"}}},
        "registries": {"own": {"registryUrl": "ghcr.io", "username": "me", "passwordFrom": {"env": "P"}}},
        "applications": {"web": {"dockerImage": "ghcr.io/a/b:1", "registryUrl": "ghcr.io", "username": "me",
                                 "passwordFrom": {"env": "P"}}},
    }  # fmt: skip
    await declaring.apply(document)
    moved = {
        "alerts": {"git": {**document["alerts"]["git"], "address": theirs, "tokenFrom": "unchanged"}},
        "registries": {"own": {**document["registries"]["own"], "registryUrl": "quay.io", "passwordFrom": "unchanged"}},
        "applications": {"web": {**document["applications"]["web"], "registryUrl": "quay.io",
                                 "passwordFrom": "unchanged"}},
    }  # fmt: skip
    refused = (await declaring.plan(moved))["objects"]
    assert [(one["path"][0], one["action"]) for one in refused] == [
        ("registries", "refused"),
        ("applications", "refused"),
        ("alerts", "refused"),
    ]
    for one in refused:
        current = await declaring.plan(document)
        (version,) = [each["version"] for each in current["objects"] if each["path"] == one["path"]]
        status, answer = await declaring.apply_one(moved, {**one, "version": version})
        assert status == 400, answer
    given_again = {
        plural: {name: {**form, **{field: document[plural][name][field] for field in form if field.endswith("From")}}
                 for name, form in forms.items()}
        for plural, forms in moved.items()
    }  # fmt: skip
    await declaring.apply(given_again)
    assert not (await declaring.plan(given_again))["differs"]


async def test_of_two_that_make_the_same_object_at_once_one_is_refused(declaring: Declaring) -> None:
    document = {"applications": {"web": {"dockerImage": "acme/web:1"}}}
    (planned,) = (await declaring.plan(document))["objects"]
    both = await asyncio.gather(*(declaring.apply_one(document, planned) for _ in range(2)))
    assert sorted(status for status, _ in both) == [200, 409]
    assert await declaring.web.count("applications") == 1


async def test_an_export_leaves_out_the_keys_that_expire(declaring: Declaring) -> None:
    await declaring.web.mutate("user.createApiKey", name="brief", scope="read", expiresIn=3600)
    async with declaring.web.pool.acquire() as connection:
        await api_keys.insert_key(connection, "me (gateway open)", expires_at=datetime.now(UTC) + timedelta(hours=1))
    exported = await declaring.web.query("declaration.export")
    assert not {"brief", "me (gateway open)"} & exported["document"]["keys"].keys()
    (note,) = exported["notes"]
    assert note.startswith("key brief is left out: it expires at ")


async def test_a_plan_stops_trying_within_an_object_when_its_time_is_over(
    declaring: Declaring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.procedures._declared_plan._LONGEST", 0.2)
    async with declaring.web.pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE applications IN SHARE MODE")  # nobody can create one meanwhile
        planned = (await declaring.plan(DOCUMENT))["objects"]
    (api,) = [one for one in planned if one["path"] == ["applications", "api"]]
    assert (api["action"], api["error"], api["note"]) == ("created", None, "not tried: the plan takes too long")
    assert not (await declaring.plan({"declaration": "shop"}, prune=True))["differs"]
    monkeypatch.setattr("gateway.api.procedures._declared_plan._LONGEST_IN_ALL", -1)
    status, answer = await declaring.call("declaration.plan", {"document": {"applications": {"api": {}}}})
    assert (status, "--project" in answer["message"]) == (503, True)


async def test_a_member_is_named_in_full_also_once_the_default_project_was_renamed(declaring: Declaring) -> None:
    """As an imported compose file names it; another project has an application of the same name."""
    document = {
        "declaration": "shop",
        "applications": {"web": {"dockerImage": "acme/web:1"}},
        "projects": {"Other": {"environments": {"production": {"applications": {"web": {"dockerImage": "a/b"}}}}}},
        "groups": {"shop": {"members": {"Default/production/web": 1}}},
    }
    await declaring.apply(document)
    assert not (await declaring.plan(document))["differs"]
    await declaring.web.mutate("project.update", projectId="default", name="Main")
    assert not (await declaring.plan(document))["differs"]
