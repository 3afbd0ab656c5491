"""What the API answers is what its description says: asked by schemathesis, for about so many MINUTES."""

import asyncio
import os
from itertools import islice

import pytest

from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc.openapi import document
from gateway.api.rpc.procedure import Surface
from tests.support.api_client import Web

MINUTES = float(os.environ.get("CONFORMING_MINUTES", "0"))
FEW = 1  # of each procedure, always the same ones
A_MINUTE = 5  # of each procedure, by chance


@pytest.mark.timeout(3600 if MINUTES else 600)
@pytest.mark.parametrize(
    ("surface", "share"),
    [
        # Every fourth procedure; the other tests of the API hold all of them to the description, too.
        (Surface.REST, 4),
        pytest.param(Surface.REST, 1, marks=pytest.mark.long),
        pytest.param(Surface.TRPC, 1, marks=pytest.mark.long),
    ],
    ids=["a quarter of REST", "REST", "tRPC"],
)
async def test_every_answer_is_as_it_is_described_whatever_is_asked(web: Web, surface: Surface, share: int) -> None:
    from tests.support.schemathesis_cases import ask

    whole = document(PROCEDURES, surface, base="", version="1")
    described = {**whole, "paths": dict(islice(whole["paths"].items(), None, None, share))}
    base = str(web.client.make_url("/")).rstrip("/")
    statuses, found = await asyncio.to_thread(
        ask, described, base, web.key, examples=int(MINUTES * A_MINUTE) or FEW, derandomize=not MINUTES
    )
    assert found == []
    assert statuses.total() >= len(described["paths"]) >= len(PROCEDURES) // share
    assert {200, 400, 404} <= statuses.keys()
