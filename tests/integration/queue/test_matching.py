"""Tests how pushes match subscriptions, and how they change an image."""

import pytest

from gateway.model.deployments import Status
from gateway.model.errors import Code
from gateway.model.reference import Tag
from gateway.model.tag_policies import TagPolicy
from tests.support.api_client import Web
from tests.support.concluding import begin, conclude


async def _application(web: Web, image: str = "r.io/acme/web:1.2.0") -> str:
    return str((await web.mutate("application.create", name="web", dockerImage=image))["applicationId"])


async def _follow(web: Web, application_id: str, policy: str, pattern: str = "", **more: object) -> str:
    given = {"applicationId": application_id, "policy": policy, "pattern": pattern, **more}
    return str((await web.mutate("subscription.create", **given))["subscriptionId"])


async def _image(web: Web, application_id: str) -> str:
    return str((await web.query("application.one", applicationId=application_id))["dockerImage"])


async def test_a_version_in_range_is_deployed_and_recorded(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1.2")
    _, answer = await web.push("r.io/acme/web:v1.3.0")
    assert await _image(web, application_id) == "r.io/acme/web:1.2.0", "until it has served"
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:v1.3.0"
    one = await web.query("deployment.one", deploymentId=answer["deployments"][0]["deploymentId"])
    assert one["image"] == "r.io/acme/web:v1.3.0"
    assert one["description"] == "followed by semver ^1.2; the image was r.io/acme/web:1.2.0"


@pytest.mark.parametrize("tag", ["2.0.0", "1.3.0-rc.1", "latest", "1.1.0"])
async def test_a_version_out_of_range_matches_nothing(web: Web, tag: str) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1.2")
    status, answer = await web.push(f"r.io/acme/web:{tag}")
    assert (status, answer["ignored"][0]["reason"].partition(":")[0]) == (200, "no subscription")
    assert await _image(web, application_id) == "r.io/acme/web:1.2.0"


async def test_a_lower_version_supersedes_neither_queued_nor_running(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    assert (await web.push("r.io/acme/web:1.4.0"))[0] == 202
    status, answer = await web.push("r.io/acme/web:1.3.0")
    assert (status, answer["ignored"][0]["reason"]) == (200, "lower than 1.4.0, which runs or is about to")
    await conclude(web)
    assert (await web.push("r.io/acme/web:1.3.1"))[0] == 200
    assert await _image(web, application_id) == "r.io/acme/web:1.4.0"
    assert (await web.push("r.io/acme/web:1.4.0"))[0] == 202, "the same version, pushed anew, is deployed"


async def test_a_failed_version_does_not_block_a_lower_one_above_what_runs(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    await conclude(web)
    await web.push("r.io/acme/web:1.5.0")
    await conclude(web, Status.ROLLED_BACK)
    assert (await web.push("r.io/acme/web:1.4.0"))[0] == 202
    assert await _image(web, application_id) == "r.io/acme/web:1.3.0"
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.4.0"


async def test_a_downgrade_needs_a_request(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1", allowDowngrade=True)
    await web.push("r.io/acme/web:1.4.0")
    assert (await web.push("r.io/acme/web:1.3.0"))[0] == 202
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.3.0"


async def test_the_highest_version_of_one_delivery_is_deployed(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    _, answer = await web.push("r.io/acme/web:1.3.0", "r.io/acme/web:1.5.0", "r.io/acme/web:1.4.0")
    assert len(answer["deployments"]) == 1
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.5.0"
    assert {one["reference"] for one in answer["ignored"]} == {"r.io/acme/web:1.3.0", "r.io/acme/web:1.4.0"}


async def test_a_policy_replaces_the_subscription_to_the_old_tag(web: Web) -> None:
    application_id = await _application(web, "r.io/acme/web:main-1")
    await _follow(web, application_id, "glob", "main-*", exclude=["main-1"])
    await web.push("r.io/acme/web:main-2")
    await conclude(web)
    _, answer = await web.push("r.io/acme/web:main-1")
    assert answer["ignored"][0]["reason"].startswith("no subscription")


async def test_listed_tags_all_stay_subscribed(web: Web) -> None:
    application_id = await _application(web, "r.io/acme/web:latest")
    await _follow(web, application_id, "exact", "stable")
    await _follow(web, application_id, "exact", "latest", repository="mirror.io/acme/web")
    for image in ("r.io/acme/web:stable", "mirror.io/acme/web:latest", "r.io/acme/web:latest"):
        assert (await web.push(image))[0] == 202
        await conclude(web)
        assert await _image(web, application_id) == image


@pytest.mark.parametrize(
    ("status", "code"),
    [(Status.FAILED, Code.NOT_FOUND), (Status.ROLLED_BACK, Code.UNHEALTHY), (Status.CANCELLED, Code.CANCELLED)],
)
async def test_a_mistyped_tag_changes_neither_image_nor_subscriptions(web: Web, status: Status, code: Code) -> None:
    application_id = await _application(web, "r.io/acme/web:latest")
    await web.mutate("application.deploy", applicationId=application_id, tag="nope")
    await conclude(web, status, code)
    assert await _image(web, application_id) == "r.io/acme/web:latest"
    assert (await web.push("r.io/acme/web:latest"))[0] == 202


@pytest.mark.parametrize("code", [Code.UP_TO_DATE, Code.SATISFIED])
async def test_a_tag_of_what_already_serves_becomes_the_image(web: Web, code: Code) -> None:
    application_id = await _application(web, "r.io/acme/web:latest")
    await web.mutate("application.deploy", applicationId=application_id, tag="stable")
    await conclude(web, Status.UNCHANGED, code)
    assert await _image(web, application_id) == "r.io/acme/web:stable"
    assert (await web.push("r.io/acme/web:stable"))[0] == 202
    await conclude(web)
    assert (await web.push("r.io/acme/web:latest"))[0] == 200, "it follows the tag it was moved to"


async def test_pushes_of_the_old_tag_do_not_supersede_the_requested_one(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    assert (await web.push("r.io/acme/web:1.2.0"))[0] == 200
    await begin(web)
    assert (await web.push("r.io/acme/web:1.2.0"))[0] == 200
    assert (await web.push("r.io/acme/web:1.3.0"))[0] == 202, "what is on its way is followed already"


async def test_a_redeploy_deploys_the_queued_push(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    await web.mutate("application.redeploy", applicationId=application_id)
    newest = (await web.query("deployment.all", applicationId=application_id))[0]
    assert newest["image"] == "r.io/acme/web:1.3.0"
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.3.0"


async def test_an_image_set_meanwhile_stays(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    await web.mutate("application.saveDockerProvider", applicationId=application_id, dockerImage="r.io/acme/web:2.0.0")
    assert await _image(web, application_id) == "r.io/acme/web:2.0.0"
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:2.0.0"


async def test_other_subscriptions_survive_a_new_image(web: Web) -> None:
    application_id = await _application(web)
    subscription_id = await _follow(web, application_id, "regex", r"\d{8}")
    await web.mutate("application.update", applicationId=application_id, dockerImage="r.io/acme/other:2")
    found = await web.query("subscription.all", applicationId=application_id)
    assert [(one["repository"], one["policy"], one["pattern"], one["fromImage"]) for one in found] == [
        ("r.io/acme/other", "exact", "2", True),
        ("r.io/acme/web", "regex", r"\d{8}", False),
    ]
    await web.mutate("subscription.remove", subscriptionId=subscription_id)
    assert len(await web.query("subscription.all")) == 1


async def test_an_invalid_subscription_is_rejected_with_its_field(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "any")
    for given, status, field in (
        ({"policy": "any"}, 409, None),
        ({"policy": "semver", "pattern": "newest"}, 400, "pattern"),
        ({"policy": "any", "repository": "UPPER/x"}, 400, "repository"),
        ({"applicationId": "nobody", "policy": "any"}, 404, None),
    ):
        got, answer = await web.post("/api/subscription.create", {"applicationId": application_id, **given})
        assert got == status
        assert field is None or answer["issues"][0]["path"] == [field]
    own = next(one for one in await web.query("subscription.all") if one["fromImage"])
    status, _ = await web.post("/api/subscription.remove", {"subscriptionId": own["subscriptionId"]})
    assert status == 400


async def test_a_push_to_many_applications_is_one_delivery_and_one_deployment_each(web: Web) -> None:
    ids = [await _application(web, "r.io/acme/web:1") for _ in range(20)]
    _, answer = await web.push("r.io/acme/web:1")
    assert sorted(one["applicationId"] for one in answer["deployments"]) == sorted(ids)
    _, again = await web.push("r.io/acme/web:1")
    first = {one["deploymentId"] for one in answer["deployments"]}
    assert {one["deploymentId"] for one in again["deployments"]} == first


async def test_a_policy_is_evaluated_once_for_each_tag(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(10):
        await _follow(web, await _application(web), "any")
    asked: list[str] = []
    matches = TagPolicy.matches

    def count(policy: TagPolicy, tag: Tag) -> bool:
        asked.append(tag)
        return matches(policy, tag)

    monkeypatch.setattr(TagPolicy, "matches", count)
    _, answer = await web.push(*(f"r.io/acme/web:t{number}" for number in range(20)))
    assert len(answer["deployments"]) == 10
    assert len(asked) == 20
    assert {one["reference"] for one in answer["ignored"]} == {f"r.io/acme/web:t{number}" for number in range(19)}


async def test_subscriptions_of_an_application_are_limited(web: Web) -> None:
    application_id = await _application(web)
    for number in range(99):
        await _follow(web, application_id, "exact", f"t{number}")
    given = {"applicationId": application_id, "policy": "any", "pattern": ""}
    status, answer = await web.post("/api/subscription.create", given)
    assert (status, "at most 100" in answer["message"]) == (409, True)
