"""What an application runs with, as options of commands."""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import PurePath
from typing import Any, TypeVar

import click

from gateway.cli._runner import read_secret
from gateway.model.errors import InvalidInput

_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--publish", "-p", multiple=True, metavar="[ADDRESS:]8080:80[/udp]", help="A port of the host and the "
                 "container's."),
    click.option("--env-file", help="A file of NAME=value lines."),
    click.option("--memory", help="As 512MB or 2g."),
    click.option("--cpus", help="As 0.5."),
    click.option("--replicas", type=int, help="How many; more than one takes Docker Swarm."),
    click.option("--volume", "-v", multiple=True, metavar="NAME:/PATH[:ro]", help="A volume, or a folder of the host."),
    click.option("--file", multiple=True, metavar="FILE:/PATH", help="A file that is copied into the container."),
    click.option("--network", multiple=True, help="A network to join."),
    click.option("--command", "words", help="What to run instead of the image's command."),
    click.option("--probe", metavar="http:8080/health|tcp:5432", help="What the gateway asks it, to know that it "
                 "serves."),
    click.option("--watch", type=float, help="Seconds after a rollout in which trouble brings the former version "
                 "back."),
    click.option("--heal/--no-heal", default=None, help="Whether to bring it back where it is missing, stopped or "
                 "changed by hand."),
    click.option("--registry-url", help="The registry the login is for."),
    click.option("--username", help="A login for the image's registry."),
    click.option("--password-file", help="Its password or token, in a file (- is standard input)."),
)  # fmt: skip


def options(function: _F) -> _F:
    """Give a command the options that `columns` reads."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), function)


def columns(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen, by the API's names; raises InvalidInput."""
    found = {
        "env": read_secret(chosen["env_file"]),
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


def _port(text: str) -> dict[str, object]:
    numbers, _, protocol = text.partition("/")
    address, _, ends = numbers.rpartition(":")
    address, _, published = address.rpartition(":")
    if not (published.isdigit() and ends.isdigit()):
        raise InvalidInput(f"--publish takes 8080:80, 8080:80/udp or 127.0.0.1:8080:80, not {text!r}")
    at = {"hostIp": address.strip("[]")} if address else {}
    return {"publishedPort": int(published), "targetPort": int(ends), "protocol": protocol or "tcp", **at}


def _probe(text: str) -> dict[str, object]:
    kind, _, rest = text.partition(":")
    port, slash, path = rest.partition("/")
    if not port.isdigit():
        raise InvalidInput(f"--probe takes http:8080, http:8080/health or tcp:5432, not {text!r}")
    return {"type": kind, "port": int(port), **({"path": f"/{path}"} if slash else {})}


def _mount(text: str) -> dict[str, object]:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not target or mode not in {"", "ro", "rw"}:
        raise InvalidInput(f"--volume takes name:/path, /host:/path or either with :ro, not {text!r}")
    kind = "bind" if source.startswith("/") else "volume"
    return {"type": kind, "source": source, "target": target, "readOnly": mode == "ro"}


def _file(text: str) -> dict[str, object]:
    source, _, target = text.rpartition(":")
    if not source:
        raise InvalidInput(f"--file takes web.conf:/etc/web.conf, not {text!r}")
    try:
        with click.open_file(source, encoding="utf-8", errors="strict") as file:
            content = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {source}: {error}") from error
    return {"type": "file", "source": PurePath(source).name, "target": target, "content": content}
