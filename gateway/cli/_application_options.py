"""Command options for the settings of an application."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import PurePath
from typing import Any, TypeVar

import click

from gateway.cli._completion import complete_files
from gateway.cli._runner import interruptible, read_secret
from gateway.model.dotenv import parse_variables
from gateway.model.errors import InvalidInput

_F = TypeVar("_F", bound=Callable[..., Any])

_VARIABLE = re.compile(r"[^\s=#'\"`\\:]+")
_PORT = re.compile(r"[0-9]{1,9}")

_OPTIONS = (
    click.option("--publish", "-p", multiple=True, metavar="[ADDRESS:]8080:80[/udp]", help="Publish a "
                 "port: the host's port, then the container's; repeatable."),
    click.option("--env", "-e", "variables", multiple=True, metavar="NAME=VALUE", help="Set one environment "
                 "variable, besides those there are; repeatable. Others on this host can read it: put secrets "
                 "into a file."),
    click.option("--env-file", help="Read environment variables from one file of NAME=value lines.",
                 shell_complete=complete_files),
    click.option("--memory", help="Memory limit, for example 512MB or 2g."),
    click.option("--cpus", help="CPU limit, for example 0.5."),
    click.option("--replicas", type=int, help="Number of replicas; more than one needs Docker Swarm."),
    click.option("--volume", "-v", multiple=True, metavar="NAME:/PATH[:ro]", help="Mount a volume or a "
                 "directory of the host; repeatable."),
    click.option("--file", multiple=True, metavar="FILE:/PATH", help="Copy a file into the container; repeatable.",
                 shell_complete=complete_files),
    click.option("--network", multiple=True, help="Network to join; repeatable."),
    click.option("--command", "words", help="Command to run instead of the image's."),
    click.option("--probe", metavar="http:8080/health|tcp:5432", help="Probe that the gateway sends to "
                 "check that the application is ready."),
    click.option("--watch", type=float, help="Seconds to monitor a new version after its rollout; if it "
                 "fails in that time, the previous version comes back."),
    click.option("--heal/--no-heal", default=None, help="Restore the application when its container is "
                 "missing, stopped or changed by hand."),
    click.option("--registry-url", help="Registry that --username and --password-file belong to."),
    click.option("--username", help="User name for the image's registry."),
    click.option("--password-file", help="Read the password or token from a file (- is standard input).",
                 shell_complete=complete_files),
)  # fmt: skip


def application_options(function: _F) -> _F:
    """Add the options to a command; `columns` reads their values."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), function)


def parse_options(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options under the API's field names. Raises InvalidInput."""
    found = {
        "env": with_variables(read_secret(chosen["env_file"]), chosen["variables"]),
        "memoryLimit": chosen["memory"],
        "cpuLimit": chosen["cpus"],
        "replicas": chosen["replicas"],
        "ports": [_port(text) for text in chosen["publish"]] or None,
        "mounts": [*map(_mount, chosen["volume"]), *map(_file, chosen["file"])] or None,
        "networks": list(chosen["network"]) or None,
        "command": chosen["words"],
        "probe": _probe(chosen["probe"]) if chosen["probe"] else None,
        "watch": chosen["watch"],
        "heal": chosen["heal"],
        "registryUrl": chosen["registry_url"],
        "username": chosen["username"],
        "password": read_secret(chosen["password_file"]),
    }
    return {name: value for name, value in found.items() if value is not None}


def with_variables(text: str | None, given: Sequence[str]) -> str | None:
    """Return the dotenv text with these variables, NAME=VALUE each, in place of those of their names.

    Raises InvalidInput.
    """
    if not given:
        return text
    lines = (text or "").splitlines()
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise InvalidInput(f"--env takes NAME=VALUE, not {name!r}")
        rest = [line for line in lines if not line.startswith(f"{name}=")]
        if _others("\n".join(rest), name) == _others("\n".join(lines), name):  # else it is part of another's value
            lines = rest
        lines.append(_assignment(name, value))
    return "\n".join(lines)


def _others(text: str, name: str) -> dict[str, str]:
    return {one: value for one, value in parse_variables(text).items() if one != name}


def _assignment(name: str, value: str) -> str:
    for quote in ("", "'", "`", '"'):
        line = f"{name}={quote}{value}{quote}"
        try:
            read = parse_variables(line)
        except InvalidInput:
            continue
        if read == {name: value}:
            return line
    raise InvalidInput(f"the value of {name} cannot be written as NAME=VALUE: use --env-file")


def _port(text: str) -> dict[str, object]:
    numbers, _, protocol = text.partition("/")
    address, _, ends = numbers.rpartition(":")
    address, _, published = address.rpartition(":")
    if not (_PORT.fullmatch(published) and _PORT.fullmatch(ends)):
        raise InvalidInput(f"--publish takes 8080:80, 8080:80/udp or 127.0.0.1:8080:80, not {text!r}")
    at = {"hostIp": address.strip("[]")} if address else {}
    return {"publishedPort": int(published), "targetPort": int(ends), "protocol": protocol or "tcp", **at}


def _probe(text: str) -> dict[str, object]:
    kind, _, rest = text.partition(":")
    port, slash, path = rest.partition("/")
    if not _PORT.fullmatch(port):
        raise InvalidInput(f"--probe takes http:8080, http:8080/health or tcp:5432, not {text!r}")
    return {"type": kind, "port": int(port), **({"path": f"/{path}"} if slash else {})}


def _mount(text: str) -> dict[str, object]:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not target or mode not in {"", "ro", "rw"}:
        raise InvalidInput(f"--volume takes name:/path, /host:/path, or either with :ro, not {text!r}")
    kind = "bind" if source.startswith("/") else "volume"
    return {"type": kind, "source": source, "target": target, "readOnly": mode == "ro"}


def _file(text: str) -> dict[str, object]:
    source, _, target = text.rpartition(":")
    if not source:
        raise InvalidInput(f"--file takes web.conf:/etc/web.conf, not {text!r}")
    from gateway.model.mounts import MAX_FILE_BYTES

    try:
        with interruptible(), click.open_file(source, encoding="utf-8", errors="strict") as file:
            content = file.read(MAX_FILE_BYTES + 1)  # what is longer is refused, whatever its characters are
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {source}: {error}") from error
    return {"type": "file", "source": PurePath(source).name, "target": target, "content": content}
