"""`dokli`, which makes an instance as a file declares it, sees no difference when it plans after it applied.

It learns the API from `settings.getOpenApiDocument` before it does anything, and keeps what it learned in its cache.
"""

import orjson
import pytest

from gateway.cli.demo.process import free_port
from tests.support.client_programs import PYTHON, Workstation

_MANIFEST = """
apiVersion: v1
connection: gateway
projects:
  - name: Declared
    description: As the file has it
    services:
      - type: application
        name: web
        description: The shop's front
        image: {image}
        env: |-
          GREETING="hello, world"
          EMPTY=
    environments:
      - name: staging
        services:
          - type: application
            name: web-staging
            image: {image}
resources:
  - kind: port
    name: "{port}"
    in: "project:Declared / application:web"
    data: {{publishedPort: {port}, targetPort: 8080, protocol: tcp, publishMode: host}}
  - kind: mount
    name: kept
    in: "project:Declared / application:web"
    data: {{type: volume, volumeName: {volume}, mountPath: /kept, filePath: kept}}
"""


@pytest.mark.long
@pytest.mark.timeout(600)  # each of its many commands has a deadline of its own
async def test_dokli_applies_deploys_and_plans_nothing_more(workstation: Workstation) -> None:
    """A port it declares is made after the deployment it starts, so the next deployment publishes it."""

    async def dokli(*words: str, code: int = 0) -> str:
        said = await workstation.run(PYTHON / "dokli", *words)
        assert said.code == code, (words, said)
        return said.out

    port, volume = free_port(), workstation.path.replace("/", "-")

    def declare(tag: str) -> None:
        (workstation.home / "dokploy.yaml").write_text(
            _MANIFEST.format(image=workstation.image(tag), port=port, volume=volume)
        )

    declare("v1")
    first, second = await workstation.push("1", "v1"), await workstation.push("2", "v2")
    await dokli("connections", "add", "gateway", "--url", workstation.gateway.url, "--api-key", workstation.gateway.key)
    report = orjson.loads(await dokli("doctor", "--format", "json"))
    assert {check["check"]: check["ok"] for check in report["checks"]} == dict.fromkeys(
        ("connectivity", "auth", "schema"), True
    )
    assert "create" in await dokli("plan")
    await dokli("apply", "--deploy")
    assert "No changes." in await dokli("plan")
    rows = await workstation.gateway.query("application.all")
    (web,) = [
        row["applicationId"] for row in rows if row["name"] == "web" and row["dockerImage"] == workstation.image("v1")
    ]
    (staging,) = [row["applicationId"] for row in rows if row["name"] == "web-staging"]
    for application_id in (web, staging):
        await workstation.ended(application_id, count=1)
    found = await workstation.runs(web)
    assert found.digest == first
    assert {"GREETING=hello, world", "EMPTY="} <= set(found.environment)
    assert (await workstation.runs(staging)).digest == first

    declare("v2")
    assert "image" in await dokli("plan")
    await dokli("apply", "--deploy")
    assert "No changes." in await dokli("plan")
    for application_id in (web, staging):
        await workstation.ended(application_id, count=2)
    found = await workstation.runs(web)
    assert found.digest == second
    assert found.host["PortBindings"]["8080/tcp"][0]["HostPort"] == str(port)
    assert (await workstation.runs(staging)).digest == second

    # Its commands are made from the document; what it applied is what it exports, and prune finds no more than that.
    one = orjson.loads(await dokli("api", "gateway", "application", "one", web, "--format", "json"))
    assert (one["dockerImage"], one["applicationStatus"]) == (workstation.image("v2"), "done")
    await dokli("export", "--output", "exported.yaml", "--include-secrets")
    assert workstation.image("v2") in (workstation.home / "exported.yaml").read_text()
    assert "delete" not in await dokli("plan", "--prune")
    body = orjson.dumps({"applicationId": web}).decode()
    await dokli("api", "gateway", "application", "redeploy", "--body", f"%json:{body}")
    assert (await workstation.gateway.settled(web, count=3))["state"] in {"succeeded", "unchanged"}
