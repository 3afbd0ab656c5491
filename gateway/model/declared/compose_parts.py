"""The parts of a service of a compose file that have several notations. It performs no I/O."""

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.model.errors import InvalidInput

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_UNITS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORT = re.compile(r"(?:(?:(?P<address>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?P<published>[0-9-]*):)?(?P<target>[0-9-]+)"
                   r"(?:/(?P<protocol>tcp|udp|sctp))?")  # fmt: skip
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_VOLUME_OPTIONS = frozenset({"ro", "rw", "z", "Z", "cached", "delegated", "consistent"})
_MOST_PORTS = 1000
_LONGEST_WORD = 200  # characters of a port or a duration
_LAST_PORT = 65535


def texts(given: Any, field: str) -> list[str]:
    """Return a text, or a list of texts and numbers, as a list. Raises InvalidInput."""
    if given is None:
        return []
    found = given if isinstance(given, list) else [given]
    if any(isinstance(one, Mapping | list | bool | None) for one in found):
        raise InvalidInput("a text, or a list of texts, is needed", field=field)
    return [str(one) for one in found]


def pairs(given: Any, field: str) -> dict[str, str | None]:
    """Return names and values, from a mapping or a list of NAME=value. None: the name has no value."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        if any(isinstance(one, Mapping | list) for one in given.values()):
            raise InvalidInput("values are texts", field=field)
        return {name: None if value is None else _plain(value) for name, value in given.items()}
    found = {}
    for one in texts(given, field):
        name, sign, value = one.partition("=")
        found[name] = value if sign else None
    return found


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def flag(given: Any, field: str) -> bool:
    """Return true or false. Raises InvalidInput."""
    if given in (True, False, "true", "false"):
        return given in (True, "true")
    raise InvalidInput("true or false is needed", field=field)


def number(given: Any, field: str) -> int:
    """Return a number, which a variable may have written as text. Raises InvalidInput."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and re.fullmatch(r"\d{1,9}", given):
        return int(given)
    raise InvalidInput("a number is needed", field=field)


def nanoseconds(given: Any, field: str) -> int:
    """Return a duration such as 1m30s. Raises InvalidInput."""
    text = str(given)
    # Each number would be looked at from each of its digits: what is so long is none.
    found = _DURATION.findall(text) if len(text) <= _LONGEST_WORD else []
    if isinstance(given, bool) or not found or "".join(f"{size}{unit}" for size, unit in found) != text:
        raise InvalidInput(f"{text[:80]!r} is not a duration, for example 1m30s", field=field)
    return round(sum(float(size) * _UNITS[unit] for size, unit in found))


# -- ports


def ports(given: Any, field: str, name: str, notes: list[str]) -> list[dict[str, Any]]:
    """Return the published ports."""
    if not isinstance(given, list):
        raise InvalidInput("a list is needed", field=field)
    found: list[dict[str, Any]] = []
    for place, one in enumerate(given):
        at = f"{field}.{place}"
        long = _long_port(one, at, name, notes) if isinstance(one, Mapping) else _short_port(one, at)
        published, target, more = long
        if not published:
            notes.append(f"{name}.ports: {target} is not carried: the gateway publishes at a port that is named")
            continue
        froms, tos = _range(published, at), _range(target, at)
        if len(froms) != len(tos):
            raise InvalidInput("the two ranges differ in length", field=at)
        found += [{"publishedPort": a, "targetPort": b, **more} for a, b in zip(froms, tos, strict=True)]
        if len(found) > _MOST_PORTS:
            raise InvalidInput(f"more than {_MOST_PORTS} ports", field=at)
    return found


def _short_port(given: Any, field: str) -> tuple[str, str, dict[str, Any]]:
    found = _PORT.fullmatch(str(given)) if len(str(given)) <= _LONGEST_WORD else None
    if found is None or isinstance(given, bool):
        raise InvalidInput(f"{str(given)[:80]!r} is not a port, for example 8080:80", field=field)
    more = {"protocol": found["protocol"]} if found["protocol"] not in {None, "tcp"} else {}
    at = {"hostIp": found["address"].strip("[]")} if found["address"] else {}
    return found["published"] or "", found["target"], more | at


def _long_port(given: Mapping[str, Any], field: str, name: str, notes: list[str]) -> tuple[str, str, dict[str, Any]]:
    if given.get("target") is None:
        raise InvalidInput("the port of the container is missing", field=f"{field}.target")
    more: dict[str, Any] = {}
    for key, value in given.items():
        match key:
            case "target" | "published" | "name":
                pass
            case "protocol" if value in ("tcp", "udp", "sctp"):
                more |= {} if value == "tcp" else {"protocol": value}
            case "mode" if value in ("host", "ingress"):
                more |= {} if value == "ingress" else {"publishMode": value}
            case "host_ip":
                more["hostIp"] = str(value)
            case _:
                notes.append(f"{name}.ports: {key} not carried: the gateway has no such setting")
    published = given.get("published")
    return "" if published is None else str(published), str(given["target"]), more


def _range(text: str, field: str) -> range:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text[:80]!r} is not a port, for example 8080:80", field=field)
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= _LAST_PORT:
        raise InvalidInput(f"{text[:80]!r} is not a range of ports", field=field)
    return range(first, last + 1)


# -- mounts


def mounts(
    given: Any, field: str, name: str, notes: list[str], *, directory: str, volume_name: Callable[[str], str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return volumes and directories of the host, and directories in memory."""
    if not isinstance(given, list):
        raise InvalidInput("a list is needed", field=field)
    found: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    for place, one in enumerate(given):
        at = f"{field}.{place}"
        kind, source, target, read_only = (
            _long_mount(one, at, name, notes, memory)
            if isinstance(one, Mapping)
            else _short_mount(one, at, name, notes)
        )
        if kind == "tmpfs":
            continue
        if not source:
            notes.append(f"{name}.volumes: {target} is not carried: a volume without a name cannot be kept; name it")
            continue
        if kind == "bind":
            if source.startswith("~"):
                raise InvalidInput(f"{source[:80]!r} depends on who runs compose: write the whole path", field=at)
            source = posixpath.normpath(posixpath.join(directory, source))
        else:
            source = volume_name(source)
        found.append(
            {**({"type": kind} if kind == "bind" else {}), "source": source, "target": target}
            | ({"readOnly": True} if read_only else {})
        )
    return found, memory


def _short_mount(given: Any, field: str, name: str, notes: list[str]) -> tuple[str, str, str, bool]:
    words = str(given).split(":")
    if not isinstance(given, str) or not 1 <= len(words) <= 3 or not words[-1]:  # noqa: PLR2004 - source, target, options
        raise InvalidInput(f"{str(given)[:80]!r} is not a volume, for example data:/data", field=field)
    if len(words) == 1:
        return "volume", "", words[0], False
    options = set(words[2].split(",")) if len(words) > 2 else set()  # noqa: PLR2004
    if left := sorted((options - _VOLUME_OPTIONS) | (options & {"z", "Z"})):
        notes.append(f"{name}.volumes: {', '.join(left)} of {words[1]} not carried: the gateway has no such setting")
    kind = "bind" if words[0].startswith(("/", ".", "~")) else "volume"
    return kind, words[0], words[1], "ro" in options


def _long_mount(
    given: Mapping[str, Any], field: str, name: str, notes: list[str], memory: list[dict[str, Any]]
) -> tuple[str, str, str, bool]:
    kind, target = str(given.get("type") or "volume"), given.get("target")
    if kind not in {"volume", "bind", "tmpfs"}:
        raise InvalidInput(f"a mount of type {kind[:40]!r} is not possible: volume, bind, tmpfs", field=f"{field}.type")
    if not isinstance(target, str):
        raise InvalidInput("the path in the container is missing", field=f"{field}.target")
    if kind == "tmpfs":
        size = (given.get("tmpfs") or {}).get("size") if isinstance(given.get("tmpfs"), Mapping) else None
        memory.append({"target": target, **({} if size is None else {"size": str(size)})})
    options = given.get(kind)
    left = (
        sorted(set(options) - {"size"})
        if isinstance(options, Mapping) and kind == "tmpfs"
        else (sorted(set(options) - {"create_host_path"}) if isinstance(options, Mapping) else [])
    )
    left += sorted(given.keys() - {"type", "source", "target", "read_only", "volume", "bind", "tmpfs"})
    if left:
        notes.append(f"{name}.volumes: {', '.join(left)} of {target} not carried: the gateway has no such setting")
    read_only = flag(given.get("read_only", False), f"{field}.read_only")
    return kind, str(given.get("source") or ""), target, read_only


def tmpfs(given: Any, field: str) -> list[dict[str, Any]]:
    """Return directories in memory, from /path or /path:size=64m."""
    found = []
    for one in texts(given, field):
        target, _, options = one.partition(":")
        sizes = [word.partition("=")[2] for word in options.split(",") if word.startswith("size=")]
        found.append({"target": target, **({"size": sizes[0]} if sizes else {})})
    return found


# -- health checks and limits


def health_check(given: Any, field: str, name: str, notes: list[str]) -> dict[str, Any]:
    """Return the health check in the words of the Docker Engine."""
    if not isinstance(given, Mapping):
        raise InvalidInput("a mapping is needed", field=field)
    if given.get("disable") in (True, "true"):
        return {"Test": ["NONE"]}
    made: dict[str, Any] = {}
    for key, value in given.items():
        match key:
            case "test":
                made["Test"] = ["CMD-SHELL", value] if isinstance(value, str) else texts(value, f"{field}.test")
            case "interval" | "timeout" | "start_period":
                words = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}
                made[words[key]] = nanoseconds(value, f"{field}.{key}")
            case "retries":
                made["Retries"] = number(value, f"{field}.retries")
            case "disable":
                pass
            case _:
                notes.append(f"{name}.healthcheck.{key}: not carried: the gateway has no such setting")
    return made


def ulimits(given: Any, field: str) -> list[dict[str, Any]]:
    """Return limits of processes."""
    if not isinstance(given, Mapping):
        raise InvalidInput("a mapping is needed", field=field)
    found = []
    for name, value in given.items():
        soft, hard = (value.get("soft"), value.get("hard")) if isinstance(value, Mapping) else (value, value)
        found.append({"Name": name, "Soft": _limit(soft, f"{field}.{name}"), "Hard": _limit(hard, f"{field}.{name}")})
    return found


def _limit(given: Any, field: str) -> int:
    return -1 if given in (-1, "-1") else number(given, field)
