"""Connects to an engine over its socket, TCP, TLS with client certificates, or SSH."""

import os
import ssl
import tempfile
from pathlib import Path

import aiohttp

from gateway.loading import load
from gateway.model.errors import InvalidInput
from gateway.model.servers import Access

_CONNECTIONS = 200  # at once; a further request waits


async def load_transport(access: Access) -> None:
    """Load what connects to such an address, without delaying what else runs. Raises InvalidInput."""
    if access.address.scheme == "ssh":
        await load("gateway.docker.engine.ssh")


def create_connector(access: Access, keep: float) -> tuple[aiohttp.BaseConnector, str]:
    """Return the connector and the base URL for requests. Contacts nothing. Raises InvalidInput.

    A connection without a request is kept for so many seconds.
    """
    access.check()
    address = access.address
    match address.scheme:
        case "unix":
            return aiohttp.UnixConnector(address.host, limit=_CONNECTIONS, keepalive_timeout=keep), "http://docker"
        case "ssh":
            from gateway.docker.engine.ssh import SSHConnector

            return SSHConnector(access), "http://docker"
        case _ if access.tls:
            connector = aiohttp.TCPConnector(ssl=_tls(access), limit=_CONNECTIONS, keepalive_timeout=keep)
            return connector, f"https://{address.authority}"
        case _:
            return aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=keep), f"http://{address.authority}"


def _tls(access: Access) -> ssl.SSLContext:
    """Return a TLS context that trusts only the given CA and presents the client certificate."""
    try:
        context = ssl.create_default_context(cadata=access.tls_ca)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"tlsCa is not a certificate in PEM: {error}", field="tlsCa") from error
    # Python 3.13 requires an extension that certificates made by Docker's guide do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # The ssl module reads keys only from files.
    with tempfile.TemporaryDirectory(prefix="gateway-") as directory:
        path = Path(directory) / "pair.pem"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{access.tls_cert}\n{access.tls_key}\n")
        try:
            # Without a password, the ssl module would prompt for one at the terminal.
            context.load_cert_chain(path, password="")
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(
                f"tlsCert and tlsKey are not a certificate in PEM and its key, without a passphrase: {error}",
                field="tlsCert",
            ) from error
    return context
