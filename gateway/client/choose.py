"""Choose the gateway that a command talks to, and the way to it. The first of these that is given:

    --local                the database of this host, in this process
    --context, or GATEWAY_CONTEXT    what `gateway login` saved under this name
    GATEWAY_URL            that address, with GATEWAY_API_KEY
    GATEWAY_DATABASE_URL, GATEWAY_DATA_DIR   the installation that they name: its gateway if one runs, else its database
    the current context    what `gateway login` saved last, or `gateway contexts use` chose
    this host              the gateway that runs here, else the database in the data directory

A key goes to no other address than the one that it was given for.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway import installation
from gateway.client.address import Address
from gateway.client.gateway import Gateway
from gateway.client.http import HttpGateway
from gateway.client.saved import SavedGateways
from gateway.model.errors import Conflict, InvalidInput, Unauthenticated, Unavailable

_GREETING = 5.0  # seconds that a gateway of this host may take to say that it is alive
_LONGEST_KEY = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user chose on the command line. `creates`: a first command that may create an installation here."""

    context: str | None = None
    local: bool = False
    command: str = ""
    creates: bool = False


@asynccontextmanager
async def connect(
    wanted: Wanted, environ: Mapping[str, str] | None = None, *, prepare: Callable[[], None] = lambda: None
) -> AsyncIterator[Gateway]:
    """Yield the gateway that the command talks to. Raises GatewayError, which names what to do.

    `prepare` is called before the database of this host is opened in this process.
    """
    given = os.environ if environ is None else environ
    if (found := await find_gateway(wanted, given)) is not None:
        try:
            yield found
        finally:
            found.close()
        return
    _require_installation(wanted, given)
    prepare()
    from gateway import config
    from gateway.client.in_process import open_gateway

    settings = config.load() if environ is None else config.Settings.from_environ(environ)
    # Where the database was chosen, or was made just now, that is no news.
    is_news = not wanted.local and settings.database_url is None and installation.is_installed(settings.data_dir)
    async with open_gateway(settings, wanted.command) as local:
        if is_news:
            place = f"the database in {settings.data_dir} is used"
            print(f"gateway: no gateway answers on this host: {place}", file=sys.stderr)  # noqa: T201
        yield local


async def find_gateway(wanted: Wanted, environ: Mapping[str, str]) -> HttpGateway | None:
    """Return the gateway that answers, None where the database of this host is to be used. Raises GatewayError.

    One at an address is not asked yet.
    """
    if wanted.local:
        return None
    return _remote(wanted, environ) or await _running(wanted, environ)


def _remote(wanted: Wanted, environ: Mapping[str, str]) -> HttpGateway | None:
    """Return the gateway at an address, None if this host's is wanted. Raises GatewayError."""
    name = wanted.context or environ.get("GATEWAY_CONTEXT")
    if name is None and (url := environ.get("GATEWAY_URL")):
        address = Address.parse(url)
        key = api_key(environ) or SavedGateways.load(environ).key_for(address)
        if key is None:
            raise Unauthenticated(
                f"GATEWAY_URL is {address}, and there is no key for it: set GATEWAY_API_KEY or GATEWAY_API_KEY_FILE, "
                f"or log in: gateway login {address}"
            )
        return HttpGateway.at(address, key, command=wanted.command)
    if name is None and any(environ.get(one) for one in ("GATEWAY_DATABASE_URL", "GATEWAY_DATA_DIR", _URL_FILE)):
        return None
    saved = SavedGateways.load(environ)
    if (chosen := name or saved.current) is None:
        return None
    found = saved.get(chosen)
    return HttpGateway.at(found.address, found.key, command=wanted.command)


_URL_FILE = "GATEWAY_DATABASE_URL_FILE"


def api_key(environ: Mapping[str, str]) -> str | None:
    """Return the key of GATEWAY_API_KEY or of the file that GATEWAY_API_KEY_FILE names. Raises InvalidInput."""
    if path := environ.get("GATEWAY_API_KEY_FILE"):
        try:
            with Path(path).open(encoding="utf-8") as file:
                key = file.read(_LONGEST_KEY + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"GATEWAY_API_KEY_FILE: cannot read {path}: {error}") from error
        return valid_key(key, "GATEWAY_API_KEY_FILE")
    key = environ.get("GATEWAY_API_KEY", "")
    return valid_key(key, "GATEWAY_API_KEY") if key else None


def valid_key(text: str, origin: str) -> str:
    """Return the key without spaces around it. Raises InvalidInput, which does not repeat it."""
    key = text.strip()
    if not key or len(key) > _LONGEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInput(f"{origin} holds no API key; create one: gateway keys create NAME")
    return key


async def _running(wanted: Wanted, environ: Mapping[str, str]) -> HttpGateway | None:
    """Return a gateway that runs on this host, None if none answers. Raises Conflict if several databases are meant."""
    url = _database_url(environ)
    mark = None if url is None else installation.database_mark(url)
    for directory in installation.searched_directories(environ):
        found = _marks(directory, mark)
        if len(found) > 1 and installation.EMBEDDED not in found:
            raise Conflict(
                f"gateways of {len(found)} databases run with the data directory {directory}: say which one you mean, "
                "with GATEWAY_DATABASE_URL or GATEWAY_URL"
            )
        if found:
            of = installation.EMBEDDED if installation.EMBEDDED in found else found[0]
            gateway = HttpGateway.over(
                partial(_open, directory, of), "the gateway on this host", command=wanted.command
            )
            try:
                await gateway.exchange("GET", "/healthz", patience=_GREETING)
            except Unavailable as error:
                gateway.close()
                print(f"gateway: {error}: its database is used instead", file=sys.stderr)  # noqa: T201
                continue
            return gateway
    return None


def _marks(directory: Path, mark: str | None) -> list[str]:
    found = set()
    for of, connection in installation.answering_sockets(directory, mark):
        connection.close()
        found.add(of)
    return sorted(found)


def _open(directory: Path, mark: str) -> socket.socket:
    """Connect to the first gateway of the database that answers. Raises OSError."""
    for _, connection in installation.answering_sockets(directory, mark):
        return connection
    raise ConnectionRefusedError("it has ended")


def _database_url(environ: Mapping[str, str]) -> str | None:
    if path := environ.get(_URL_FILE):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{_URL_FILE}: cannot read {path}: {error}") from error
    return environ.get("GATEWAY_DATABASE_URL") or None


def _require_installation(wanted: Wanted, environ: Mapping[str, str]) -> None:
    """Raise Unavailable where neither a setting nor a former run says that a gateway's database is on this host."""
    explicit = any(environ.get(one) for one in ("GATEWAY_DATABASE_URL", _URL_FILE, "GATEWAY_DATA_DIR"))
    if not explicit and (of_machine := installation.machine_directory(environ)) is not None:
        raise Unavailable(
            f"The gateway of this machine, with its data in {of_machine}, does not answer this user. As root: "
            "systemctl start pushdeploy; systemctl status pushdeploy says what is wrong. "
            "With a key: gateway login URL. For a gateway of your own, set GATEWAY_DATA_DIR"
        )
    directory = installation.data_directory(environ)
    if explicit or wanted.creates or installation.is_installed(directory):
        return
    raise Unavailable(
        f"No gateway was found: none runs on this host, and {directory} has none. Start one: gateway serve. "
        "To use one elsewhere, set GATEWAY_URL and GATEWAY_API_KEY, or log in: gateway login URL"
    )
