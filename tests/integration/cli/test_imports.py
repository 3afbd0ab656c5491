"""A command loads what it uses: it starts fast because servers, engines and registries are none of its business."""

import asyncio
import json
import os
import sys
from base64 import b64encode

from tests.support.api_client import Web

#: a program that runs the commands it is given in one process, and prints which of the named modules they have loaded
_RUN = """
import json, os, sys
from gateway.cli import main
commands, named = json.loads(sys.argv[1])
environment = dict(os.environ)
for words in commands:
    os.environ.update(environment)  # a command takes the secrets out
    try:
        main(words)
    except SystemExit as ended:
        assert not ended.code, words
print(json.dumps([one for one in named if sys.modules.get(one)]))
"""

_SERVER = ["gateway.app", "gateway.api.server", "gateway.api.procedures.catalog", "gateway.worker", "aiohttp", "jinja2"]
_OTHERS = ["aiodocker", "apprise", "aiobotocore", "asyncssh", "gateway.registry.client", "gateway.docker.engine.client"]
_STORAGE = ["asyncpg", "pydantic", "structlog", "prometheus_client", "cryptography", "rich", "gateway.config"]


async def loaded(commands: list[list[str]], named: list[str], **environment: str) -> list[str]:
    """Run the commands, and return the modules they have loaded of these."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _RUN, json.dumps([commands, named]), stdout=-1, env={**os.environ, **environment}
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: list[str] = json.loads(out.splitlines()[-1])
    return found


async def test_a_process_that_only_accepts_loads_neither_the_worker_nor_an_engine() -> None:
    program = "import sys, gateway.accepting; print(*[one for one in sys.argv[1:] if sys.modules.get(one)])"
    named = ["gateway.worker", "gateway.api.server", "gateway.api.procedures", "aiodocker", "jinja2", "apprise"]
    named += ["rich", "pygments"]  # which structlog would load
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *named, stdout=-1)
    out, _ = await process.communicate()
    assert (process.returncode, out.split()) == (0, [])


async def test_a_server_starts_without_what_it_may_never_need() -> None:
    """What draws tables, and what secrets, patterns, gates and procedures need: the first use loads it."""
    named = ["gateway.app", "rich", "pygments", "cryptography", "re2", "jinja2", "semantic_version", "apprise"]
    named += ["gateway.api.procedures.application", "gateway.gates.signature", "gateway.gates.window"]
    program = (
        "import atexit, sys, uvloop; from gateway.cli import main; uvloop.run = lambda serving, **_: serving.close(); "
        f"atexit.register(lambda: print(*[one for one in {named} if sys.modules.get(one)])); main(['serve'])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=-1)
    out, _ = await process.communicate()
    assert (process.returncode, out.split()) == (0, [b"gateway.app"])


async def test_help_loads_neither_the_settings_nor_the_database() -> None:
    groups = ["apps", "deployments", "webhooks", "serve", "api", "demo"]
    assert await loaded([["--help"], *([one, "--help"] for one in groups)], [*_SERVER, *_OTHERS, *_STORAGE]) == []


async def test_commands_that_ask_a_gateway_load_neither_a_server_nor_what_a_database_needs(shared_web: Web) -> None:
    commands = [
        "apps create imports acme/imports:1 --id imports",
        "apps update imports --image acme/imports:2",
        "apps list",
        "subscriptions create imports semver ^1",
        "subscriptions list",
        "keys create imports",
        "keys list",
        "webhooks list",
        "deploy imports",
        "deployments list",
        "deliveries list",
        "servers list",
        "registries list",
        "gates list imports",
        "groups list",
        "releases list",
        "approvals list",
        "promotions list",
        "audit",
    ]
    words = [one.split() for one in commands]
    address = {"GATEWAY_URL": str(shared_web.client.make_url("/")), "GATEWAY_API_KEY": shared_web.key}
    assert await loaded(words, [*_SERVER, *_OTHERS, *_STORAGE, "uvloop"], **address) == []


async def test_a_command_on_the_database_alone_loads_neither_the_worker_nor_a_server(web_postgres: str) -> None:
    key = b64encode(b"k" * 32).decode()
    named = ["gateway.app", "gateway.api.server", "gateway.worker", "gateway.dashboard", "uvloop", "rich"]
    words = [["webhooks", "create", "generic"], ["deploy", "--help"]]
    assert await loaded(words, named, GATEWAY_DATABASE_URL=web_postgres, GATEWAY_MASTER_KEY=key) == []
