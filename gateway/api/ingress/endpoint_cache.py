"""Endpoints that were read before, by source and token.

An endpoint from the cache may be out of date. So it is used only to accept a delivery, in a transaction that compares
its version. Before any other answer, the endpoint is read again.
"""

from collections import OrderedDict

from aiohttp import web

from gateway.model.endpoints import Endpoint

_MOST = 10_000


class EndpointCache:
    """The endpoints that were used last."""

    def __init__(self) -> None:
        self._endpoints: OrderedDict[tuple[str, str], Endpoint] = OrderedDict()

    def get(self, source: str, token: str) -> Endpoint | None:
        endpoint = self._endpoints.get((source, token))
        if endpoint is not None:
            self._endpoints.move_to_end((source, token))
        return endpoint

    def put(self, source: str, token: str, endpoint: Endpoint) -> None:
        """Remember an endpoint, unless it accepts nothing, or changes without a write: at the end of a rotation."""
        self.drop(source, token)
        if endpoint.enabled and endpoint.former_until is None:
            self._endpoints[(source, token)] = endpoint
            if len(self._endpoints) > _MOST:
                self._endpoints.popitem(last=False)

    def drop(self, source: str, token: str) -> None:
        self._endpoints.pop((source, token), None)


ENDPOINT_CACHE = web.AppKey("endpoint_cache", EndpointCache)
