"""The client of a gateway, which the command line uses: over HTTP, over the gateway's own socket, or in this process.

    async with connect(Wanted()) as gateway:
        application_id = await gateway.find("application", "web")
        row = await gateway.call("application.one", {"applicationId": application_id})

Whichever way a call takes, its values are those of the API as JSON, and its errors are those of `gateway.model.errors`.
"""

from gateway.client.choose import Wanted, connect
from gateway.client.gateway import Answer, Gateway

__all__ = ["Answer", "Gateway", "Wanted", "connect"]
