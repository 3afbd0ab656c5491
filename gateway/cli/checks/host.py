"""The settings, the data directory, the master key, the disk and the listener of this host."""

import os
import shutil
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from gateway.cli.checks.finding import Finding, Status, failed, ok, warning
from gateway.config import Settings
from gateway.model.errors import GatewayError, InvalidInput
from gateway.store.postgres_programs import user_name

_LEAST_FREE, _LITTLE_FREE = 200 << 20, 1 << 30  # bytes
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def read_settings(environ: Mapping[str, str]) -> tuple[Settings | None, Sequence[Finding]]:
    """Return the settings, and a finding for each that is wrong; the others are used, so that every check is made."""
    try:
        found = Settings.from_environ(environ)
    except InvalidInput as error:
        remedy = "serve does not start with it: correct the variable, or unset it."
        findings = [failed("settings", line, remedy) for line in str(error).splitlines()]
        wrong = _wrong_names(error)
        rest = {name: value for name, value in environ.items() if name not in wrong}
        if not wrong or len(rest) == len(environ):
            return None, findings
        settings, more = read_settings(rest)
        return settings, [*findings, *(one for one in more if one.status is not Status.OK)]
    count = sum(name.startswith("GATEWAY_") and value != "" for name, value in environ.items())
    return found, [ok("settings", f"every name is known; {count} set")]


def _wrong_names(error: InvalidInput) -> set[str]:
    if isinstance(error.__cause__, ValidationError):
        names = {str(one["loc"][0]).upper() for one in error.__cause__.errors(include_input=False) if one["loc"]}
        return {f"GATEWAY_{name}" for name in names} | {f"GATEWAY_{name}_FILE" for name in names}
    return {str(error).partition(":")[0]}  # of a file that cannot be read


def check_master_key(settings: Settings) -> Finding:
    """Tell whether there is a key that the secrets in the database can be encrypted with."""
    name = "master key"
    try:
        key, _ = settings.key(), settings.former_keys()
    except GatewayError as error:
        return failed(name, str(error), "A database keeps the key that it was begun with: use that one.")
    if key is not None:
        return ok(name, "GATEWAY_MASTER_KEY is set")
    if settings.database_url is not None:
        return failed(
            name,
            "GATEWAY_DATABASE_URL needs GATEWAY_MASTER_KEY, which encrypts the secrets in that database",
            "Create one and keep it safe: openssl rand -base64 32",
        )
    return _check_key_file(name, settings.data_dir / "master.key")


def _check_key_file(name: str, path: Path) -> Finding:
    try:
        found = path.stat()
    except FileNotFoundError:
        if (path.parent / "postgres").exists():
            return failed(
                name,
                f"{path} is missing, and {path.parent} has a database whose secrets it decrypts",
                "Put it back from the backup, or set GATEWAY_MASTER_KEY.",
            )
        return ok(name, f"{path} is created at the first start")
    if found.st_mode & _OTHERS:
        return failed(name, f"others than its owner may use {path}", f"chmod 600 {path}, and see docs/keys.md.")
    if not os.access(path, os.R_OK):
        return failed(name, f"this user cannot read {path}", f"Run as its owner, {user_name(found.st_uid)}.")
    return ok(name, f"{path} is its owner's alone")


def check_data_directory(settings: Settings) -> Finding:
    """Tell whether the directory can be used and is closed to others."""
    name, directory = "data directory", settings.data_dir.absolute()
    if not directory.exists():
        return _check_new_directory(name, directory)
    if not directory.is_dir():
        return failed(name, f"{directory} is not a directory", "Set GATEWAY_DATA_DIR to a directory.")
    found = directory.stat()
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return failed(name, f"every user may write to {directory}", f"chmod o-w {directory}")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        owner = user_name(found.st_uid)
        return failed(name, f"this user cannot use {directory}", f"Run as its owner, {owner}, or chown it.")
    for private in ("postgres", "sockets"):
        path = directory / private
        if path.is_dir() and path.stat().st_mode & _OTHERS:
            return failed(name, f"others than its owner may enter {path}", f"chmod 700 {path}")
    return ok(name, f"{directory}, of {user_name(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):o}")


def _check_new_directory(name: str, directory: Path) -> Finding:
    above = _nearest(directory)
    if not os.access(above, os.W_OK | os.X_OK):
        return failed(
            name,
            f"{directory} does not exist, and this user cannot create it in {above}",
            f"Create it and give it to the gateway's user: install -d -m 700 -o USER {directory}",
        )
    return ok(name, f"{directory} is created at the first start")


def check_service(directory: Path, *, running: bool) -> Finding:
    """Tell whether the gateway of the whole machine, whose settings are its service's, answers this user."""
    if running:
        return ok("service", f"the gateway of this machine, with its data in {directory}, has read its own settings")
    return failed(
        "service",
        f"the gateway of this machine, with its data in {directory}, does not answer this user",
        "As root: systemctl start pushdeploy; systemctl status pushdeploy says what is wrong.",
    )


def check_disk(settings: Settings) -> Finding:
    return disk("disk of the data", _nearest(settings.data_dir.absolute()))


def disk(name: str, directory: Path) -> Finding:
    """Tell how much of the directory's file system is free, for a user without privileges."""
    usage = shutil.disk_usage(directory)
    message = f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GB are free in {directory}"
    if usage.free < _LEAST_FREE:
        return failed(name, message, "Free space: docker image prune, or a larger disk. See docs/retention.md.")
    if usage.free < _LITTLE_FREE:
        return warning(name, message, "Free space before it is full: docker image prune. See docs/retention.md.")
    return ok(name, message)


def check_listener(settings: Settings, *, running: bool) -> Finding:
    """Tell whether `serve` can listen. Nothing is accepted on the socket."""
    name = "listener"
    if running:
        return ok(name, f"a gateway runs; GATEWAY_LISTEN is {settings.listen}")
    host, port = settings.address
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return failed(
            name,
            f"cannot listen on {settings.listen}: {error.strerror}",
            "Stop the program that uses it (ss -ltnp names it), or set GATEWAY_LISTEN.",
        )
    return warning(name, f"{settings.listen} is free, and no gateway runs here", "Start it: gateway serve")


def check_proxies(environ: Mapping[str, str], engine: Mapping[str, object]) -> Finding:
    """Compare the proxies of this process with the engine's. The gateway itself uses none."""
    name = "outgoing proxy"
    own = sorted(found for one in _PROXIES for found in (one, one.upper()) if environ.get(found))
    of_engine = [key for key in ("HttpProxy", "HttpsProxy") if engine.get(key)]
    if own:
        return warning(
            name,
            f"{', '.join(own)} is set, and the gateway asks registries without a proxy",
            "Let it reach its registries directly, or follow a mirror inside; the engine pulls by its own proxy.",
        )
    if of_engine:
        return warning(
            name,
            "the engine pulls by a proxy, and the gateway asks registries without one",
            "Let the gateway's host reach the registries too: it resolves each tag before the engine pulls.",
        )
    return ok(name, "none is set, here or at the engine")


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest of its parents that exists."""
    return next(one for one in (path, *path.parents) if one.exists())
