"""A followed tag becomes the application's image; versions rise; what is named one by one stays."""

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


async def test_a_version_in_range_is_followed_and_recorded(web: Web) -> None:
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
async def test_what_is_out_of_range_is_nobodys(web: Web, tag: str) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1.2")
    status, answer = await web.push(f"r.io/acme/web:{tag}")
    assert (status, answer["ignored"][0]["reason"].partition(":")[0]) == (200, "no subscription")
    assert await _image(web, application_id) == "r.io/acme/web:1.2.0"


async def test_a_lower_version_neither_supersedes_what_waits_nor_follows_what_runs(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    assert (await web.push("r.io/acme/web:1.4.0"))[0] == 202
    status, answer = await web.push("r.io/acme/web:1.3.0")
    assert (status, answer["ignored"][0]["reason"]) == (200, "lower than 1.4.0, which runs or is about to")
    await conclude(web)
    assert (await web.push("r.io/acme/web:1.3.1"))[0] == 200
    assert await _image(web, application_id) == "r.io/acme/web:1.4.0"
    assert (await web.push("r.io/acme/web:1.4.0"))[0] == 202, "the same version, pushed anew, is deployed"


async def test_a_version_that_failed_does_not_hold_back_one_above_what_runs(web: Web) -> None:
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


async def test_downwards_only_when_asked(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1", allowDowngrade=True)
    await web.push("r.io/acme/web:1.4.0")
    assert (await web.push("r.io/acme/web:1.3.0"))[0] == 202
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.3.0"


async def test_of_versions_told_together_the_highest_is_followed(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    _, answer = await web.push("r.io/acme/web:1.3.0", "r.io/acme/web:1.5.0", "r.io/acme/web:1.4.0")
    assert len(answer["deployments"]) == 1
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.5.0"
    assert {one["reference"] for one in answer["ignored"]} == {"r.io/acme/web:1.3.0", "r.io/acme/web:1.4.0"}


async def test_the_tag_an_image_had_is_followed_no_more_once_a_policy_left_it(web: Web) -> None:
    application_id = await _application(web, "r.io/acme/web:main-1")
    await _follow(web, application_id, "glob", "main-*", exclude=["main-1"])
    await web.push("r.io/acme/web:main-2")
    await conclude(web)
    _, answer = await web.push("r.io/acme/web:main-1")
    assert answer["ignored"][0]["reason"].startswith("no subscription")


async def test_tags_named_one_by_one_are_all_followed_for_good(web: Web) -> None:
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
async def test_a_mistyped_tag_changes_neither_the_image_nor_what_is_followed(
    web: Web, status: Status, code: Code
) -> None:
    application_id = await _application(web, "r.io/acme/web:latest")
    await web.mutate("application.deploy", applicationId=application_id, tag="nope")
    await conclude(web, status, code)
    assert await _image(web, application_id) == "r.io/acme/web:latest"
    assert (await web.push("r.io/acme/web:latest"))[0] == 202


@pytest.mark.parametrize("code", [Code.UP_TO_DATE, Code.SATISFIED])
async def test_a_tag_that_names_what_serves_already_is_the_image_from_then_on(web: Web, code: Code) -> None:
    application_id = await _application(web, "r.io/acme/web:latest")
    await web.mutate("application.deploy", applicationId=application_id, tag="stable")
    await conclude(web, Status.UNCHANGED, code)
    assert await _image(web, application_id) == "r.io/acme/web:stable"
    assert (await web.push("r.io/acme/web:stable"))[0] == 202
    await conclude(web)
    assert (await web.push("r.io/acme/web:latest"))[0] == 200, "it follows the tag it was moved to"


async def test_pushes_of_the_tag_before_neither_supersede_nor_follow_the_one_on_its_way(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    assert (await web.push("r.io/acme/web:1.2.0"))[0] == 200
    await begin(web)
    assert (await web.push("r.io/acme/web:1.2.0"))[0] == 200
    assert (await web.push("r.io/acme/web:1.3.0"))[0] == 202, "what is on its way is followed already"


async def test_a_redeploy_after_a_push_means_what_was_pushed_though_that_waits_yet(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    await web.mutate("application.redeploy", applicationId=application_id)
    newest = (await web.query("deployment.all", applicationId=application_id))[0]
    assert newest["image"] == "r.io/acme/web:1.3.0"
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:1.3.0"


async def test_an_image_that_a_person_sets_meanwhile_stays(web: Web) -> None:
    application_id = await _application(web)
    await _follow(web, application_id, "semver", "^1")
    await web.push("r.io/acme/web:1.3.0")
    await web.mutate("application.saveDockerProvider", applicationId=application_id, dockerImage="r.io/acme/web:2.0.0")
    assert await _image(web, application_id) == "r.io/acme/web:2.0.0"
    await conclude(web)
    assert await _image(web, application_id) == "r.io/acme/web:2.0.0"


async def test_what_is_followed_beside_the_image_survives_another_image(web: Web) -> None:
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


async def test_a_subscription_that_cannot_be_is_refused_naming_the_field(web: Web) -> None:
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


async def test_a_policy_is_asked_once_for_a_tag_however_many_applications_have_it(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_an_application_follows_so_much_and_no_more(web: Web) -> None:
    application_id = await _application(web)
    for number in range(99):
        await _follow(web, application_id, "exact", f"t{number}")
    given = {"applicationId": application_id, "policy": "any", "pattern": ""}
    status, answer = await web.post("/api/subscription.create", given)
    assert (status, "at most 100" in answer["message"]) == (409, True)
