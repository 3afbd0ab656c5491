"""What others wrote for Dokploy's API works here: the judge is the container that runs in the end."""

import pytest

from tests.other_clients import Desk

# As the published GitHub Actions do it: exactly 200, and of an update exactly `true`.
_ACTION = """
call() {
    curl -s -o answer -w '%{http_code}' -X POST "$DOKPLOY_URL/api/$1" -d "$2" \\
        -H 'accept: application/json' -H 'Content-Type: application/json' -H "x-api-key: $DOKPLOY_API_KEY"
}
test "$(call application.update "{\\"applicationId\\": \\"$1\\", \\"dockerImage\\": \\"$2\\"}")" = 200
test "$(cat answer)" = true
test "$(call "$3" "{$4\\"applicationId\\": \\"$1\\"$5}")" = 200
"""


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [("application.deploy", "", ""), ("trpc/application.deploy", '"json": {', "}")],
    ids=["rest", "trpc"],
)
async def test_published_actions_update_and_deploy(desk: Desk, path: str, before: str, after: str) -> None:
    await desk.push("1", "v1")
    second = await desk.push("2", "v2")
    made = await desk.gateway.mutate("application.create", {"name": "web", "dockerImage": desk.image("v1")})
    application_id = made["applicationId"]
    for count, tag in enumerate(("v1", "v2"), start=1):
        said = await desk.run(
            "sh", "-eu", "-c", _ACTION, "action", application_id, desk.image(tag), path, before, after, **desk.known
        )
        assert said.code == 0, said
        await desk.ended(application_id, count=count)
    found = await desk.runs(application_id)
    assert found.digest == second
