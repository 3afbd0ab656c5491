"""A secret that the gateway was given stays with it, and goes to nobody who need not know.

What is shown, and to whom, is written down here: an application's environment, the variables of what it belongs to,
the files it is given and what clients keep for builds, to keys of scope admin and on the command line of the operator.
On an engine only the container itself has its environment and its files. All else is never seen again.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
import trustme

from gateway.api.procedures.catalog import PROCEDURES
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import GatewayProcess, free_port
from gateway.cli.demo.registry import private_registry
from gateway.docker.engine.client import Engine
from gateway.store.embedded_postgres import embedded_postgres
from tests.e2e.test_registry_hostnames import HTPASSWD, LOGIN
from tests.support.command_line import gateway_process
from tests.support.distribution_hooks import envelope
from tests.support.swarm_nodes import swarm_of
from tests.support.token_registries import filled

#: what a key of scope admin may see again, of what it was told
SHOWN_TO_ADMIN = {"env", "project env", "environment env", "file", "build", "deploy address"}
#: and by what: an application, what it belongs to, and its parts
SHOWN_BY = {"application", "project", "environment", "mounts"}
PATH = "team/web"
_TELLING = 8  # bytes that are not met by chance


def _forms(secret: str) -> set[bytes]:
    """Return how it may look where somebody took pains to hide it: as hex, within base64."""
    raw = secret.encode()
    wrapped = {base64.b64encode(b"x" * at + raw + b"xxx")[4 if at else 0 : -8] for at in range(3)}
    return {raw, raw.hex().encode(), *(form for form in wrapped if len(form) >= _TELLING)}


@dataclass
class Secrets:
    """What was told in confidence, by what it is."""

    known: dict[str, str] = field(default_factory=dict)

    def make(self, name: str) -> str:
        return self.keep(name, f"hush{token_hex(12)}")

    def keep(self, name: str, secret: str) -> str:
        self.known[name] = secret
        return secret

    def within(self, said: bytes) -> set[str]:
        return {name for name, secret in self.known.items() if any(form in said for form in _forms(secret))}


@dataclass
class UsedGateway:
    """A gateway that has every kind of secret, and used it."""

    gateway: GatewayProcess
    secrets: Secrets
    engine: Engine
    #: an id of everything, by what an input calls it
    ids: dict[str, str]
    #: keys, by scope
    keys: dict[str, str]
    #: of processes that the gateway started
    environments: set[bytes]
    #: of all there were
    commands: set[bytes]


def _processes(root: int, place: bytes) -> tuple[set[bytes], set[bytes]]:
    """Return the environments of those that `root` started, PostgreSQL in its place too; the command lines of all."""
    parents: dict[int, int] = {}
    commands: dict[int, bytes] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):  # it has ended
            commands[int(process.name)] = (process / "cmdline").read_bytes()
            parents[int(process.name)] = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    started = {root, *(pid for pid, command in commands.items() if b"postgres" in command and place in command)}
    while more := {pid for pid, parent in parents.items() if parent in started} - started:
        started |= more
    environments = set()
    for pid in started - {root}:
        with suppress(OSError):
            environments.add(Path(f"/proc/{pid}/environ").read_bytes())
    return environments, set(commands.values())


@asynccontextmanager
async def _watching(used: UsedGateway) -> AsyncIterator[None]:
    """Look at the processes, again and again."""
    place = used.gateway.environment["GATEWAY_DATA_DIR"].encode()

    async def look() -> None:
        while True:
            environments, commands = await asyncio.to_thread(_processes, used.gateway.pid, place)
            used.environments |= environments
            used.commands |= commands
            await asyncio.sleep(0.05)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
async def used(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UsedGateway]:
    place = tmp_path_factory.mktemp("secrets")
    await filled(place / "registry", PATH, "v1", "v2")
    (place / "htpasswd").write_text(HTPASSWD)
    secrets = Secrets({"registry password": LOGIN[1]})
    master = secrets.keep("master key", base64.b64encode(token_bytes(32)).decode())
    async with swarm_of(1) as swarm:
        node = swarm.nodes[0]
        async with private_registry(
            place / "registry", free_port(), host=swarm.host, htpasswd=place / "htpasswd"
        ) as registry:
            settings = {
                "GATEWAY_MASTER_KEY": master,
                "GATEWAY_LOG_LEVEL": "debug",
                "GATEWAY_ALERT_URLS": f"json://us:{secrets.make('alerts')}@127.0.0.1:1",
                "GATEWAY_STABLE_WINDOW": "0.3",
                "GATEWAY_INSECURE_REGISTRIES": registry.address,
            }
            async with gateway_process(place / "gateway", node.dockerd.host, settings) as gateway:
                used = UsedGateway(gateway, secrets, node.engine, {}, {}, set(), set())
                await _tell(used, registry.address)
                async with _watching(used):
                    await _use(used, registry.address)
                yield used


async def _tell(used: UsedGateway, address: str) -> None:
    """Say everything there is to say in confidence."""
    gateway, make, keep, ids = used.gateway, used.secrets.make, used.secrets.keep, used.ids
    keep("the first key", gateway.key)
    for scope in ("read", "deploy", "admin"):
        made = await gateway.mutate("user.createApiKey", {"name": scope, "scope": scope})
        used.keys[scope] = keep(f"key to {scope}", made["key"])
    project = await gateway.mutate("project.create", {"name": "p", "env": f"SHARED={make('project env')}"})
    ids["projectId"], ids["environmentId"] = project["project"]["projectId"], project["environment"]["environmentId"]
    variables = {"environmentId": ids["environmentId"], "env": f"MORE={make('environment env')}"}
    await gateway.mutate("environment.update", variables)
    registry = {"registryName": "r", "registryUrl": address, "username": LOGIN[0], "password": LOGIN[1]}
    ids["registryId"] = (await gateway.mutate("registry.create", registry))["registryId"]
    amazon = {"registryType": "ecr", "accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": make("amazon")}
    url = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    await gateway.mutate("registry.create", {"registryName": "a", "registryUrl": url, **amazon})
    authority = trustme.CA()
    certificate = authority.issue_cert("10.0.0.1")
    key = certificate.private_key_pem.bytes().decode()
    keep("server key", key.splitlines()[2])
    server = {
        "name": "s",
        "host": "tcp://127.0.0.1:1",
        "tlsKey": key,
        "tlsCert": certificate.cert_chain_pems[0].bytes().decode(),
        "tlsCa": authority.cert_pem.bytes().decode(),
    }
    ids["serverId"] = (await gateway.mutate("server.create", server))["serverId"]
    opened = await gateway.mutate("webhook.create", {"source": "distribution", "secret": make("webhook secret")})
    ids["endpointId"] = opened["endpointId"]
    keep("webhook path", opened["path"].rpartition("/")[2])
    ids["path"] = opened["path"]


async def _use(used: UsedGateway, address: str) -> None:
    """Deploy as a container and as a service, well and badly, by hand and by a webhook."""
    gateway, make, ids = used.gateway, used.secrets.make, used.ids
    environment = f"TOKEN={make('env')}\nP=${{{{project.SHARED}}}}\nE=${{{{environment.MORE}}}}"
    common = {"env": environment, "environmentId": ids["environmentId"], "buildSecrets": make("build")}
    own = {"username": LOGIN[0], "password": LOGIN[1], "registryUrl": address}
    for name, more in (("box", {"runtime": "container", **own}), ("crowd", {"runtime": "service"})):
        given = {"name": name, "applicationId": name, "dockerImage": f"{address}/{PATH}:v1", **common, **more}
        await gateway.mutate("application.create", given)
    mount = {"serviceId": "box", "type": "file", "mountPath": "/etc/x", "content": make("file")}
    ids["mountId"] = (await gateway.mutate("mounts.create", mount))["mountId"]
    port = {"applicationId": "box", "publishedPort": free_port(), "targetPort": 8080, "publishMode": "host"}
    ids["portId"] = (await gateway.mutate("port.create", port))["portId"]
    for name in ("box", "crowd"):
        await gateway.mutate("application.deploy", {"applicationId": name})
    for name in ("box", "crowd"):
        assert (await gateway.settled(name))["state"] == "succeeded"
    denied = {"name": "denied", "applicationId": "denied", "dockerImage": f"{address}/{PATH}:v1", **own}
    await gateway.mutate("application.create", {**denied, "password": make("wrong password")})
    await gateway.mutate("application.deploy", {"applicationId": "denied"})
    assert (await gateway.settled("denied"))["state"] == "failed"
    digest = await push(Image("v3", Behaviour.EXITS), f"{address}/{PATH}:v1", login=LOGIN)
    secret = used.secrets.known["webhook secret"]
    for sent in (secret, secret + "x"):
        headers = {"Authorization": f"Bearer {sent}", "Content-Type": "application/json"}
        body = envelope(f"{address}/{PATH}:v1", digest)
        async with (
            aiohttp.ClientSession() as session,
            session.post(gateway.url + ids["path"], data=body, headers=headers) as answer,
        ):
            assert answer.status in {202, 401}
    assert (await gateway.settled("box", count=2))["state"] == "rolled_back"
    assert (await gateway.settled("crowd", count=2))["state"] == "rolled_back"
    await gateway.mutate("application.rollback", {"applicationId": "crowd", "deploymentId": await _first(gateway)})
    await gateway.settled("crowd", count=3)
    await _by_its_own_address(used)
    ids["deploymentId"] = (await gateway.deployments("box"))[0]["deploymentId"]
    ids["subscriptionId"] = (await gateway.query("subscription.all", applicationId="box"))[0]["subscriptionId"]
    ids["deliveryId"] = next(one["deliveryId"] for one in await gateway.query("delivery.all") if one["proven"])
    ids |= {"applicationId": "box", "serviceId": "box", "id": "box", "type": "application", "appName": "box"}


async def _by_its_own_address(used: UsedGateway) -> None:
    token = (await used.gateway.query("application.one", applicationId="box"))["refreshToken"]
    used.secrets.keep("deploy address", token)
    async with aiohttp.ClientSession() as session, session.post(f"{used.gateway.url}/api/deploy/{token}") as answer:
        assert answer.status == 200
    await used.gateway.settled("box", count=3)


async def _first(gateway: GatewayProcess) -> str:
    return str((await gateway.deployments("crowd"))[-1]["deploymentId"])


#: 503 says that the engine of this gateway's other server does not answer
ASKS_AN_ENGINE = "application.adoptable"


async def answers(used: UsedGateway, key: str) -> AsyncIterator[tuple[str, int, bytes]]:
    """Ask every query, on both surfaces."""
    async with aiohttp.ClientSession(headers={"x-api-key": key}) as session:
        for procedure in PROCEDURES.values():
            if procedure.kind != "query":
                continue
            fields = [one.alias or name for name, one in procedure.takes.model_fields.items()]
            given = {name: used.ids[name] for name in fields if name in used.ids}
            wrapped = {"input": orjson.dumps({"json": given}).decode()}
            for path, query in ((f"/api/{procedure.name}", given), (f"/api/trpc/{procedure.name}", wrapped)):
                async with session.get(used.gateway.url + path, params=query) as answer:
                    yield procedure.name, answer.status, await answer.read()


@pytest.mark.parametrize("scope", ["read", "deploy", "admin"])
async def test_no_query_answers_with_a_secret(used: UsedGateway, scope: str) -> None:
    answered = 0
    async for name, status, said in answers(used, used.keys[scope]):
        assert status < 500 or name == ASKS_AN_ENGINE, (name, said)
        answered += status == 200
        found = used.secrets.within(said)
        if scope == "admin" and name.partition(".")[0] in SHOWN_BY:
            found -= SHOWN_TO_ADMIN
        assert found == set(), name
    assert answered > 40


async def test_whoever_may_see_an_environment_sees_it(used: UsedGateway) -> None:
    """Else the test before would prove nothing."""
    found: set[str] = set()
    async for _, _, said in answers(used, used.keys["admin"]):
        found |= used.secrets.within(said)
    assert found == SHOWN_TO_ADMIN


async def test_the_database_holds_no_secret_in_clear(used: UsedGateway) -> None:
    data = used.gateway.environment["GATEWAY_DATA_DIR"]
    async with embedded_postgres(Path(data)) as url:
        connection = await asyncpg.connect(url)
        try:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            assert len(tables) > 15
            for table in tables:
                rows = await connection.fetch(f"SELECT t::text AS row FROM {table['tablename']} t")
                said = "\n".join(row["row"] for row in rows).encode()
                assert used.secrets.within(said) == set(), table["tablename"]
        finally:
            await connection.close()
    assert await asyncio.to_thread(_in_files, used, Path(data)) == {}


def _in_files(used: UsedGateway, place: Path) -> dict[str, set[str]]:
    """Return what the files say: the tables, what is written ahead, the log of PostgreSQL."""
    found = {}
    for path in place.rglob("*"):
        with suppress(FileNotFoundError):  # PostgreSQL removes files meanwhile
            found[str(path)] = used.secrets.within(path.read_bytes()) if path.is_file() else set()
    return {path: names for path, names in found.items() if names}


async def test_no_log_tells_a_secret(used: UsedGateway) -> None:
    said = await asyncio.to_thread(used.gateway.log.read_bytes)
    assert b"Accepted a webhook" in said
    assert b"An alert was not delivered" in said
    assert used.secrets.within(said) == set()


async def test_no_process_is_told_a_secret_that_others_can_see(used: UsedGateway) -> None:
    assert used.secrets.within(b"\n".join(used.commands)) == set()
    assert len(used.environments) > 0
    assert used.secrets.within(b"\n".join(used.environments)) == set()


async def test_an_engine_has_of_secrets_what_a_container_needs_and_no_more(used: UsedGateway) -> None:
    call = used.engine.call
    containers = [
        await call("GET", f"containers/{one['Id']}/json")
        for one in await call("GET", "containers/json", params={"all": 1})
    ]
    services, tasks = await call("GET", "services"), await call("GET", "tasks")
    assert len(containers) > 1
    assert len(services) == 1
    variables: list[str] = []
    for one in [*containers, *services, *tasks]:
        variables += _without_variables(one)
    said = orjson.dumps([containers, services, tasks, await call("GET", "configs"), await call("GET", "secrets")])
    assert used.secrets.within(said) == set()
    assert used.secrets.within("\n".join(variables).encode()) == {"env", "project env", "environment env"}


def _without_variables(described: Any) -> list[str]:
    """Take the variables out of what an engine says, and return them."""
    found: list[str] = []
    if isinstance(described, dict):
        found += described.pop("Env", None) or ()
        for value in described.values():
            found += _without_variables(value)
    elif isinstance(described, list):
        for value in described:
            found += _without_variables(value)
    return found


async def test_the_command_line_shows_the_operator_an_applications_own_and_nothing_else(
    used: UsedGateway,
) -> None:
    commands: Mapping[tuple[str, ...], Iterable[str]] = {
        ("apps", "show", "box"): {"env", "file", "build", "deploy address"},
        ("deliveries", "show", used.ids["deliveryId"]): (),
        ("registries", "list"): (),
        ("keys", "list"): (),
    }
    for words, shown in commands.items():
        said = await used.gateway.cli(*words, "--json")
        assert used.secrets.within(said.encode()) <= set(shown), words


async def test_what_is_changed_answers_without_secrets(used: UsedGateway) -> None:
    gateway = used.gateway
    said = [
        await gateway.mutate("registry.update", {"registryId": used.ids["registryId"], "registryName": "r2"}),
        await gateway.mutate("server.update", {"serverId": used.ids["serverId"], "description": "d"}),
        await gateway.mutate("webhook.disable", {"endpointId": used.ids["endpointId"]}),
        await gateway.mutate("webhook.enable", {"endpointId": used.ids["endpointId"]}),
        await gateway.mutate("delivery.replay", {"deliveryId": used.ids["deliveryId"]}),
    ]
    assert used.secrets.within(orjson.dumps(said)) == set()
