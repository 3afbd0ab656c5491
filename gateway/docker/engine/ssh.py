"""Connects to an engine over SSH. Each connection runs `docker system dial-stdio` on the host.

Nothing of the gateway's user is used: no environment, no SSH agent, no SSH configuration. The connection fails unless
the host's key is in `known_hosts`.
"""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp.client_proto import ResponseHandler

from gateway.model.errors import InvalidInput
from gateway.model.servers import Access

try:
    import asyncssh
except ImportError as error:  # pragma: no cover - the extra is installed wherever tests run
    raise InvalidInput("ssh:// needs the extra: pip install 'pushdeploy[ssh]'", field="host") from error

_COMMAND = "docker system dial-stdio"
_CONNECTIONS = 60
# An OpenSSH server allows ten sessions for each connection by default (MaxSessions).
_SESSIONS = 8
_LOGIN_DEADLINE = 10.0  # seconds
_ALIVE = 15  # seconds between keepalives; the connection ends after three without an answer
_STDERR_KEPT = 500  # characters of the command's error output


class SSHConnector(aiohttp.BaseConnector):
    """Distributes the connections over as many SSH logins as they need."""

    def __init__(self, access: Access) -> None:
        super().__init__(limit=_CONNECTIONS)
        self._address = access.address
        try:
            self._key = asyncssh.import_private_key(access.ssh_key or "")
        except (asyncssh.KeyImportError, ValueError) as error:
            raise InvalidInput(
                f"sshKey is not a private key without a passphrase in the format of ssh-keygen: {error}", field="sshKey"
            ) from error
        try:
            self._known_hosts = asyncssh.import_known_hosts(access.known_hosts or "")
        except ValueError as error:
            raise InvalidInput(
                f"knownHosts are not lines in the format of ssh-keyscan: {error}", field="knownHosts"
            ) from error
        self._logins: dict[asyncssh.SSHClientConnection, int] = {}
        self._logging_in = asyncio.Lock()

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,  # noqa: ARG002 - the base's signature
        traces: object,  # noqa: ARG002 - the base's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ARG002 - a login has a deadline of its own
    ) -> ResponseHandler:
        """Override: return a protocol whose transport is connected."""
        handler = ResponseHandler(loop=self._loop)
        try:
            async with asyncio.timeout(_LOGIN_DEADLINE):
                login = await self._login()
                self._logins[login] += 1
                try:
                    await login.create_session(
                        lambda: _Session(handler, lambda: self._end_session(login)),
                        _COMMAND,
                        encoding=None,
                        request_pty=False,
                    )
                except BaseException:
                    self._end_session(login)
                    raise
        except asyncssh.Error as error:
            self._drop_closed()
            raise aiohttp.ClientConnectionError(f"SSH to {self._address.authority}: {error.reason}") from error
        except OSError as error:
            why = str(error) or "no answer in time"
            raise aiohttp.ClientConnectionError(f"SSH to {self._address.authority}: {why}") from error
        return handler

    async def _login(self) -> asyncssh.SSHClientConnection:
        """Return a login with a free session. Opens a new login if necessary."""
        async with self._logging_in:
            self._drop_closed()
            for login, sessions in self._logins.items():
                if sessions < _SESSIONS:
                    return login
            login = await asyncssh.connect(
                self._address.host,
                self._address.port,
                username=self._address.user or "root",
                client_keys=[self._key],
                known_hosts=self._known_hosts,
                config=None,
                agent_path=None,
                env={},
                send_env=(),
                keepalive_interval=_ALIVE,
                password_auth=False,
                kbdint_auth=False,
                gss_auth=False,
            )
            self._logins[login] = 0
            return login

    def _end_session(self, login: asyncssh.SSHClientConnection) -> None:
        if login in self._logins:
            self._logins[login] -= 1

    def _drop_closed(self) -> None:
        self._logins = {login: sessions for login, sessions in self._logins.items() if not login.is_closed()}

    def close(self, *, abort_ssl: bool = False) -> Awaitable[None]:
        return self._close_logins(super().close(abort_ssl=abort_ssl))

    async def _close_logins(self, closed: Awaitable[None]) -> None:
        await closed
        for login in self._logins:
            login.close()
        for login in self._logins:
            await login.wait_closed()
        self._logins.clear()


class _Session(asyncssh.SSHClientSession[bytes]):
    """Passes the command's output to aiohttp, which uses the channel as its transport."""

    def __init__(self, handler: ResponseHandler, release: Callable[[], None]) -> None:
        self._handler = handler
        self._release = release
        self._stderr = b""

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._handler.connection_made(chan)  # type: ignore[arg-type]  # it has a transport's methods

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self._handler.data_received(data)
        else:
            self._stderr = (self._stderr + data)[-_STDERR_KEPT:]

    def eof_received(self) -> bool:
        self._handler.eof_received()
        return False

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        stderr = self._stderr.decode(errors="replace").strip()
        self._handler.connection_lost(ConnectionResetError(f"{_COMMAND}: {stderr}") if stderr else exc)
