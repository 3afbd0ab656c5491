"""A secret that is kept belongs to the address it was given for, and goes to no other."""

from pathlib import Path
from typing import Any

import pytest

from gateway.model.reference import Reference
from gateway.model.registries import Credentials, Login, select_login
from gateway.store import applications
from tests.support.api_client import VAULT, Web

_BACKFILL = Path("migrations/former/0061_passwords_for_their_registry.sql").read_text(encoding="utf-8")
LOGIN = {"username": "robot", "password": "hush-password"}


async def login_of(web: Web) -> Login:
    """Return with what the application's image is asked for."""
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app-1")
    assert application.reference is not None
    return select_login(application.reference.repository, application.own_login, ())


async def with_a_password(web: Web, **given: Any) -> None:
    await web.mutate("application.create", name="web", applicationId="app-1", **LOGIN, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"dockerImage": "r.io/acme/web:v1"},
        {"dockerImage": "r.io/acme/web:v1", "registryUrl": "https://r.io/v2/"},
        {"dockerImage": "r.io/acme/web:v1", "registryUrl": "r.io/acme"},
        {"dockerImage": "acme/web"},
    ],
    ids=str,
)
@pytest.mark.parametrize("clearing", [{}, {"registryUrl": None}, {"registryUrl": ""}], ids=str)
async def test_an_image_from_elsewhere_is_asked_for_without_the_password(
    web: Web, given: dict[str, Any], clearing: dict[str, Any]
) -> None:
    await with_a_password(web, **given)
    assert (await login_of(web)).credentials == Credentials("robot", "hush-password")
    for procedure in ("application.update", "application.saveDockerProvider"):
        await web.mutate(procedure, applicationId="app-1", dockerImage="evil.example/x:v1", **clearing)
        login = await login_of(web)
        assert login.credentials is None
        assert "was not sent, since it was given for" in login.withheld
    await web.mutate("application.update", applicationId="app-1", username="another")
    assert (await login_of(web)).credentials is None
    await web.mutate("application.update", applicationId="app-1", registryUrl=None, password="theirs")
    assert (await login_of(web)).credentials == Credentials("another", "theirs")


async def test_a_deploy_of_an_image_from_elsewhere_takes_no_password_there(web: Web) -> None:
    await with_a_password(web, dockerImage="r.io/acme/web:v1")
    await web.mutate("application.deploy", applicationId="app-1", dockerImage="evil.example/x:v1")
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app-1")
    there = Reference.parse("evil.example/x:v1").repository
    assert select_login(there, application.own_login, ()).credentials is None


@pytest.mark.parametrize("given", [{"dockerImage": "r.io/acme/web"}, {"registryUrl": "r.io"}], ids=str)
@pytest.mark.parametrize("more", [{}, {"dockerImage": "evil.example/x"}, {"username": "robot"}], ids=str)
async def test_a_registry_url_elsewhere_takes_the_password_anew(
    web: Web, given: dict[str, Any], more: dict[str, Any]
) -> None:
    await with_a_password(web, **given)
    wish = {"applicationId": "app-1", "registryUrl": "evil.example", **more}
    status, answer = await web.post("/api/application.update", wish)
    assert (status, answer["issues"][0]["path"]) == (400, ["registryUrl"])
    assert "was given for r.io, and is not sent to evil.example" in answer["message"]
    await web.mutate("application.update", **wish, password=None)
    await web.mutate("application.update", **wish, password="another")


async def test_a_password_set_before_its_image_is_for_the_first_one(web: Web) -> None:
    await with_a_password(web)
    await web.mutate("application.update", applicationId="app-1", dockerImage="r.io/acme/web")
    assert (await login_of(web)).credentials == Credentials("robot", "hush-password")
    await web.mutate("application.update", applicationId="app-1", dockerImage="evil.example/x")
    assert (await login_of(web)).credentials is None


@pytest.mark.parametrize(
    ("given", "belongs"),
    [
        ({"dockerImage": "acme/web"}, "docker.io"),
        ({"dockerImage": "index.docker.io/acme/web"}, "docker.io"),
        ({"dockerImage": "r.io:5000/acme/web"}, "r.io:5000"),
        ({"dockerImage": "localhost/web"}, "localhost"),
        ({"dockerImage": "web", "registryUrl": "https://R.io:443/v2/"}, "r.io"),
        ({"dockerImage": "web", "registryUrl": "r.io/team"}, "r.io"),
        ({"dockerImage": "web", "registryUrl": "https://index.docker.io/v1/"}, "docker.io"),
        ({"registryUrl": "http://r.io:80"}, "r.io"),
    ],
    ids=str,
)
async def test_a_password_of_before_is_for_where_it_was_sent_then(
    web: Web, given: dict[str, Any], belongs: str
) -> None:
    await with_a_password(web, **given)
    async with web.pool.acquire() as connection:
        assert await connection.fetchval("SELECT password_for FROM applications") == belongs
        await connection.execute("UPDATE applications SET password_for = NULL")
        await connection.execute(_BACKFILL[_BACKFILL.index("UPDATE") :])
        assert await connection.fetchval("SELECT password_for FROM applications") == belongs


@pytest.mark.parametrize("more", [{}, {"username": "robot"}, {"registryType": "cloud"}], ids=str)
async def test_a_kept_login_is_not_tried_at_another_registry(web: Web, more: dict[str, Any]) -> None:
    made = await web.mutate("registry.create", registryName="r", registryUrl="r.io/team", **LOGIN)
    wish = {"registryId": made["registryId"], "registryUrl": "evil.example", **more}
    status, answer = await web.post("/api/registry.update", wish)
    assert (status, answer["issues"][0]["path"]) == (400, ["password"])
    assert (await web.query("registry.one", registryId=made["registryId"]))["registryUrl"] == "r.io/team"
    await web.mutate("registry.update", registryId=made["registryId"], registryUrl="r.io/another")
    await web.mutate("registry.update", **wish, password="theirs")


async def test_keys_of_amazon_are_for_amazon(web: Web) -> None:
    keys = {"accessKeyId": "AKIAX", "secretAccessKey": "hush"}
    ecr = "1234.dkr.ecr.us-east-1.amazonaws.com"
    made = await web.mutate("registry.create", registryName="e", registryType="ecr", registryUrl=ecr, **keys)
    wish = {"registryId": made["registryId"], "registryUrl": "evil.example", "region": "us-east-1"}
    assert (await web.post("/api/registry.update", wish))[0] == 400
    await web.mutate("registry.update", **wish | {"registryUrl": ecr.replace("us-east", "eu-west"), "region": None})


async def test_what_lets_us_in_to_a_server_is_not_used_at_another(web: Web) -> None:
    key = {"sshKey": "hush-key", "knownHosts": "h ssh-ed25519 AAAA"}
    async with web.pool.acquire() as connection:
        sealed = VAULT.encrypt('{"ssh_key": "hush-key", "known_hosts": "h"}', "servers:s-1:credentials")
        await connection.execute(
            "INSERT INTO servers (server_id, name, host, credentials) VALUES ('s-1', 's', 'ssh://deploy@h', $1)", sealed
        )
    for host in ("ssh://deploy@evil.example", "ssh://deploy@h:2222"):
        for procedure in ("server.update", "server.test"):
            status, answer = await web.post(f"/api/{procedure}", {"serverId": "s-1", "host": host})
            assert (status, answer["issues"][0]["path"]) == (400, ["sshKey"])
    assert key["sshKey"] not in str(await web.query("server.one", serverId="s-1"))
