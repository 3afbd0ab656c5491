"""The ways to an engine: its socket, TCP, TLS with certificates of both sides, SSH."""

import os
import ssl
import tempfile
from pathlib import Path

import aiohttp

from gateway.model.errors import InvalidInput
from gateway.model.servers import Access

_CONNECTIONS = 200  # at once; one more would wait without a word


def connector(access: Access) -> tuple[aiohttp.BaseConnector, str]:
    """Return what connects, and the URL to ask; raises InvalidInput. Nothing is contacted."""
    access.check()
    address = access.address
    match address.scheme:
        case "unix":
            return aiohttp.UnixConnector(address.host, limit=_CONNECTIONS), "http://docker"
        case "ssh":
            from gateway.docker.engine.ssh import SSHConnector

            return SSHConnector(access), "http://docker"
        case _ if access.tls:
            return aiohttp.TCPConnector(ssl=_tls(access), limit=_CONNECTIONS), f"https://{address.authority}"
        case _:
            return aiohttp.TCPConnector(limit=_CONNECTIONS), f"http://{address.authority}"


def _tls(access: Access) -> ssl.SSLContext:
    """Trust the one CA, and show our certificate."""
    try:
        context = ssl.create_default_context(cadata=access.tls_ca)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"tlsCa is not a certificate in PEM: {error}", field="tlsCa") from error
    # Python 3.13 asks for an extension that certificates made by Docker's own guide do not have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # The library reads a key from a file alone.
    with tempfile.TemporaryDirectory(prefix="gateway-") as directory:
        path = Path(directory) / "pair.pem"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{access.tls_cert}\n{access.tls_key}\n")
        try:
            # A key under a passphrase would have it asked for at the terminal.
            context.load_cert_chain(path, password="")
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(
                f"tlsCert and tlsKey are not a certificate in PEM and its key, without a passphrase: {error}",
                field="tlsCert",
            ) from error
    return context
