"""Calls over the gateway's own Unix socket: a user of this host acts as the gateway's owner, and needs no key.

The kernel says which user is at the other end. Only root and the user that the gateway runs as are let in: both can
read the master key and the database anyway.
"""

import os
import pwd
import re
import socket
import struct

from aiohttp import web

from gateway.model.api_keys import Caller, Permission
from gateway.model.audit import Actor
from gateway.model.errors import Forbidden

#: the address of the socket, as the kernel has it
LOCAL_SOCKET: web.AppKey[str] = web.AppKey("local_socket")
#: what the command line says of itself: its version, the command that calls, and who became root by sudo
CLIENT, COMMAND, SUDO_USER = "X-Gateway-Client", "X-Gateway-Command", "X-Gateway-Sudo-User"
#: what an answer to it says of the gateway
SERVER_VERSION = "X-Gateway-Version"

_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid: see unix(7)
_COMMAND = re.compile(r"[a-z][a-z.-]{0,79}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}")


def is_local(request: web.Request) -> bool:
    """Tell whether the request came over the gateway's own socket."""
    own = request.app.get(LOCAL_SOCKET)
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    return own is not None and name == own


def local_caller(request: web.Request) -> Caller | None:
    """Return the user of this host who makes the request, None if it came another way. Raises Forbidden."""
    if not is_local(request) or request.transport is None:
        return None
    connection = request.transport.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid not in {0, os.geteuid()}:
        raise Forbidden(f"{_user_name(uid)} may not use this socket: only root and {_user_name(os.geteuid())} may")
    user, by = _user_name(uid), request.headers.get(SUDO_USER, "")
    if uid == 0 and _USER.fullmatch(by):  # root may say so: it could be anybody
        user = f"{user} (sudo by {by})"
    return Caller("", user, Permission.ADMIN, local_user=user)


def actor_of(caller: Caller, action: str, address: str | None, command: str = "") -> Actor:
    """Return who acts, for the audit; of a local user, with the command that calls."""
    if caller.local_user is None:
        return Actor("api", caller.name, action, caller.key_id, address)
    called = command if _COMMAND.fullmatch(command) else action
    return Actor("cli", caller.local_user, called, address=socket.gethostname())


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user may have no name
        return f"uid {uid}"
