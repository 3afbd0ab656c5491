"""The Docker Engine: its address, its permissions, its version, its clock, its disk, and what a proxy lets pass."""

import getpass
import grp
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aiodocker.exceptions import DockerError

from gateway.cli.checks.clock import compare
from gateway.cli.checks.finding import Finding, failed, ok, warning
from gateway.cli.checks.host import disk
from gateway.docker.engine import api_version
from gateway.docker.engine.client import Engine, connect
from gateway.model.errors import GatewayError, RolloutError
from gateway.model.servers import Access, Address

_CALL = 8.0  # seconds
_REFUSED = frozenset({401, 403, 405})  # by proxies
_OLDEST_API = (1, 41)  # of Docker 20.10, the oldest that the tests run with
#: paths that a rollout reads, beside those that are asked anyway
_READ = ("containers/json?limit=1", "images/none/json", "networks/none")


@dataclass(slots=True)
class EngineFindings:
    """What was found, and what the engine said of itself; nothing if it did not answer."""

    findings: list[Finding] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)


async def check_engine(host: str, found: EngineFindings) -> None:
    """Ask the engine at this address, and write down what is found as it is. Nothing is changed there."""
    try:
        address = Address.parse(host)
    except GatewayError as error:
        found.findings.append(failed("engine", str(error), "Correct GATEWAY_DOCKER_HOST."))
        return
    if address.scheme == "ssh":
        remedy = "Unset it, and register the machine: gateway servers create"
        found.findings.append(failed("engine", f"GATEWAY_DOCKER_HOST is {host}, which needs a key", remedy))
        return
    if address.scheme == "unix" and (refused := _socket_problem(address.host)) is not None:
        found.findings.append(refused)
        return
    async with connect(Access(host)) as engine:
        try:
            version = await engine.call("GET", "version", deadline=_CALL)
            before = time.time()
            found.facts = await engine.call("GET", "info", deadline=_CALL)
            moment = (before + time.time()) / 2
        except RolloutError as error:
            remedy = "Start it (systemctl start docker), or correct GATEWAY_DOCKER_HOST."
            if isinstance(error.__cause__, DockerError) and error.__cause__.status in _REFUSED:
                remedy = "Let the proxy before it pass GET /version and /info: docs/engines.md lists all paths."
            found.findings.append(failed("engine", f"{host}: {error}", remedy))
            return
        found.findings.append(_version(host, version, found.facts))
        found.findings.append(await _permissions(engine))
        found.findings.extend(_limits(found.facts))
        found.findings.append(_clock(found.facts, moment))
        found.findings.append(_disk(address, found.facts))


def _limits(facts: Mapping[str, Any]) -> list[Finding]:
    """Return a warning where the engine makes containers without the limits that are asked for."""
    if facts.get("CgroupDriver") != "none" and facts.get("MemoryLimit") is not False:
        return []
    return [
        warning(
            "limits of the engine",
            "it sets no limit of memory or processor, whatever an application asks for",
            "Its host lacks the controllers of control groups; a rootless engine needs cgroup v2 and systemd.",
        )
    ]


def _socket_problem(path: str) -> Finding | None:
    """Return why the socket cannot be used, None if somebody accepts there."""
    name, shown = "engine", f"unix://{path}"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CALL)
        try:
            probe.connect(path)
        except FileNotFoundError:
            start = "Start it (systemctl start docker; without systemd: dockerd &)"
            begin = start if shutil.which("dockerd") else "Install Docker (apt-get install docker.io)"
            remedy = f"{begin}, or set GATEWAY_DOCKER_HOST."
            return failed(name, f"there is no {path}: no engine runs on this host, or it listens elsewhere", remedy)
        except PermissionError:
            return failed(name, f"{_user()} may not use {path}", _group_remedy(Path(path)))
        except OSError as error:
            why = error.strerror or str(error)
            return failed(name, f"{shown} does not answer: {why}", "Start it: systemctl start docker")
    return None


def _group_remedy(path: Path) -> str:
    try:
        group = path.stat().st_gid
    except OSError:
        return "Run the gateway as a user of the group of that socket."
    try:
        named = grp.getgrgid(group).gr_name
    except KeyError:
        named = str(group)
    return (
        f"Add the user to the group of the socket: usermod -aG {named} {_user()}, and log in again; "
        f"in a container: --group-add {group}"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _version(host: str, version: Mapping[str, Any], info: Mapping[str, Any]) -> Finding:
    api = str(version.get("ApiVersion", "0"))
    program = str(version.get("Version", "?"))
    kind = "Podman" if api_version.is_podman(version) else "Docker"
    message = f"{kind} {program}, API {api}, {info.get('OSType')}/{info.get('Architecture')}, at {host}"
    if kind == "Podman":
        return warning("engine", message, "docs/engines.md says what holds with Podman.")
    if api_version.parse(api) < _OLDEST_API:
        return failed("engine", message, "Update it: Docker 20.10, with API 1.41, is the oldest that is tested.")
    return ok("engine", message)


async def _permissions(engine: Engine) -> Finding:
    """Tell whether a proxy before the engine lets a rollout pass: ask to start a container that is not there."""
    name = "engine access"
    refused = [f"GET /{path.partition('?')[0]}" for path in _READ if not await _passes(engine, "GET", path)]
    nobody = f"gateway-doctor-{secrets.token_hex(8)}"
    if not await _passes(engine, "POST", f"containers/{nobody}/start"):
        refused.append("POST /containers/…/start")
    if refused:
        remedy = "Let the proxy before the engine pass what docs/engines.md lists."
        return failed(name, f"refused: {', '.join(refused)}", remedy)
    return ok(name, "containers, images and networks may be read and changed")


async def _passes(engine: Engine, method: str, path: str) -> bool:
    """Tell whether the request reaches the engine, whatever the engine answers."""
    try:
        await engine.call(method, path, deadline=_CALL)
    except RolloutError as error:
        return not (isinstance(error.__cause__, DockerError) and error.__cause__.status in _REFUSED)
    return True


def _clock(info: Mapping[str, Any], moment: float) -> Finding:
    try:
        theirs = datetime.fromisoformat(str(info.get("SystemTime"))).timestamp()
    except ValueError:
        return ok("clock of the engine", "it does not tell its time")
    return compare("clock of the engine", theirs, moment)


def _disk(address: Address, info: Mapping[str, Any]) -> Finding:
    """Tell how full the engine's disk is, where its directory is on this host."""
    name, root = "disk of the engine", Path(str(info.get("DockerRootDir") or ""))
    if address.scheme != "unix" or not root.is_absolute() or not root.is_dir():
        return ok(name, f"{root} cannot be seen from here; on its host: df -h {root}")
    return disk(name, root)
