"""The event loop of a gateway process: uvloop, which closes each socket once.

uvloop 0.23 can close a descriptor twice. If the other side ends a connection while its TLS handshake begins, uvloop
closes the descriptor before it has taken over the socket object that it was given. That object closes the same number
again when it is freed. By then the number may belong to a webhook, or to a connection to the Docker Engine.
"""

from typing import Any

import uvloop


class EventLoop(uvloop.Loop):
    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        """Connect as uvloop does. A socket that is given as `sock` belongs to the loop, also when this fails."""
        try:
            return await super().create_connection(*arguments, **options)
        except BaseException:
            if (given := options.get("sock")) is not None:
                given.detach()  # the loop closes the descriptor
            raise
