"""A client that keeps asking, and what it saw: each answer over a connection of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

_ASK_EVERY = 0.005  # seconds
_ANSWER_WITHIN = 0.25  # seconds; more is no answer


@dataclass(slots=True)
class Watch:
    """`answers` are the times of good answers, by the monotonic clock in seconds, and what they said."""

    answers: list[tuple[float, str]] = field(default_factory=list)

    def outage(self) -> float:
        """Return the longest time without an answer, in seconds."""
        times = [at for at, _ in self.answers]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def last(self) -> str:
        return self.answers[-1][1] if self.answers else ""


async def ask(port: int) -> str | None:
    """Return what is served at /, or None."""
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode(errors="replace").strip() if b" 200 " in head.partition(b"\r\n")[0] else None


@asynccontextmanager
async def watching(port: int) -> AsyncIterator[Watch]:
    """Keep asking until the block is left."""
    watch = Watch()

    async def keep_asking() -> None:
        while True:
            if (said := await ask(port)) is not None:
                watch.answers.append((time.monotonic(), said))
            await asyncio.sleep(_ASK_EVERY)

    task = asyncio.create_task(keep_asking(), name="watch")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
