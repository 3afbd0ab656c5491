"""Pushes of Docker Hub, as many as are answered, by wrk."""

import asyncio
import itertools
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# A request is put together from three pieces, so that wrk is not what is measured. The moment tells two pushes apart.
_DISTINCT = """
local heads, tails, count, moment = %s, %s, %d, %d
function request()
  moment = moment + 1
  local one = moment %% count + 1
  return heads[one] .. moment .. tails[one]
end
"""
_SAME = """
local push = %s
function request() return push end
"""

# Ten digits each; a round has a million of them.
_MOMENTS = itertools.count(1_000_000_000, 1_000_000)


@dataclass(frozen=True)
class Pushes:
    """Distinct pushes of some repositories in turn, or one and the same push again and again."""

    path: str
    repositories: Sequence[str]
    same: bool = False

    def script(self) -> str:
        moment = next(_MOMENTS)
        if self.same:
            return _SAME % _quoted("".join((*_pieces(self.path, self.repositories[0], str(moment)),)))
        pieces = [_pieces(self.path, one) for one in self.repositories]
        heads, tails = ("{" + ", ".join(_quoted(one[part]) for one in pieces) + "}" for part in (0, 2))
        return _DISTINCT % (heads, tails, len(pieces), moment)


def _pieces(path: str, repository: str, moment: str = "1000000000") -> tuple[str, str, str]:
    begin = '{"push_data":{"pushed_at":'
    end = f',"pusher":"me","tag":"latest"}},"repository":{{"repo_name":"{repository}"}}}}'
    length = len(begin) + len(moment) + len(end)
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    return head + begin, moment, end


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n") + '"'


def request(path: str, repository: str) -> bytes:
    """Return a push that was never sent before."""
    return "".join(_pieces(path, repository, str(next(_MOMENTS)))).encode()


@dataclass(frozen=True)
class Sent:
    """What wrk says of a round: answers a second, how many they were, and how much of a core wrk itself took."""

    rate: float
    answers: int
    generator: float


async def send(url: str, pushes: Pushes, *, connections: int, seconds: int, directory: Path) -> Sent:
    """Send for so many seconds; raises RuntimeError when an answer is no success."""
    script = directory / "pushes.lua"
    script.write_text(pushes.script())
    words = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url)
    return await asyncio.to_thread(_run, words)


def _run(words: Sequence[str]) -> Sent:
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, process.returncode, used = os.wait4(process.pid, 0)
    taken = time.monotonic() - began
    rate, answers = re.search(r"Requests/sec:\s+([\d.]+)", told), re.search(r"(\d+) requests in", told)
    if rate is None or answers is None or "Non-2xx" in told:
        raise RuntimeError(f"{' '.join(words)}:\n{told}")
    return Sent(float(rate[1]), int(answers[1]), (used.ru_utime + used.ru_stime) / taken)
