"""Reading a body from a client that is not there any more."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request

from gateway.api.request_body import read_body
from gateway.model.errors import InvalidInput


async def test_a_client_that_leaves_before_its_body_is_read_is_no_defect() -> None:
    left = StreamReader(Mock(connected=False), 2**16, loop=asyncio.get_running_loop())
    request = make_mocked_request("POST", "/api/application.update", payload=left, client_max_size=2**20)
    with pytest.raises(InvalidInput):
        await read_body(request)
