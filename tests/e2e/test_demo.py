"""The demonstration is a test of its own."""

import asyncio
import os
import sys

import orjson
import pytest


@pytest.mark.long
async def test_the_demonstration_takes_v1_to_v2_and_refuses_v3() -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DOCKER_HOST": "unix:///nowhere"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "demo", "--json", stdout=-1, stderr=-1, env=environment
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    journey = orjson.loads(out)
    words = ["push", "accepted", "resolved", "pulled", "created", "swapped", "proven"]
    assert list(journey["timeline"]) == words
    after_push = [journey["timeline"][word] for word in words[1:]]
    assert after_push == sorted(after_push)
    assert journey["outage"] > 0
    assert journey["refused"]["reason"]["code"] == "exited"
    assert "boom: cannot reach the database" in journey["refused"]["log"]
    assert journey["serving"] == "v2"
