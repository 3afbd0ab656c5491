"""How fast each source's pushes are accepted: a sample of our own, varied so that each request is another push."""

import asyncio
import base64
import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.sources import SOURCES
from tests.bench import peers
from tests.bench.accepting import SETTINGS
from tests.bench.report import Figure, figure

SAMPLES = Path(__file__).parents[1] / "samples"
REQUESTS = 10_000  # of one source in one round; more than are accepted in the time
PAIRS, SECONDS = 3, 1  # rounds of each, and the length of one

LUA = """
local requests = dofile("%s")
local count = 0
function request()
  count = count %% #requests + 1
  local one = requests[count]
  return wrk.format("POST", "%s", one.headers, one.body)
end
"""


@dataclass(frozen=True)
class Sample:
    headers: dict[str, str]
    body: bytes
    trust: dict[str, Any]

    def varied(self, number: int) -> tuple[dict[str, str], bytes]:
        """Return another push: another member, another id, signed anew where it was signed."""
        body, headers = self.body, dict(self.headers)
        for name in self._ids():
            other = f"{number:08}{name[8:]}"
            body = body.replace(name.encode(), other.encode())
            headers = {header: value.replace(name, other) for header, value in headers.items()}
        if body == self.body:
            body = re.sub(rb"^(\s*\[?\s*)\{", rb'\1{"bench":%d,' % number, body, count=1)
        return {header: self._signed(value, body) for header, value in headers.items()}, body

    def _ids(self) -> Iterator[str]:
        """Yield what looks like the event's id: also that of CloudEvents, which is in a header."""
        yield from (value for header, value in self.headers.items() if header.lower() == "ce-id")
        for found in re.finditer(rb'"(?:id|messageId|message_id)"\s*:\s*"([^"]{12,})"', self.body):
            yield found[1].decode()

    def _signed(self, value: str, body: bytes) -> str:
        key = self.trust["secret"].encode()
        for algorithm in ("sha256", "sha1"):
            was, now = (hmac.new(key, one, algorithm) for one in (self.body, body))
            value = value.replace(was.hexdigest(), now.hexdigest())
            value = value.replace(base64.b64encode(was.digest()).decode(), base64.b64encode(now.digest()).decode())
        return value


def sample_of(source: str) -> Sample | None:
    """Return the plainest push among our own that needs no key of the registry's and no clock."""
    for beside in sorted((SAMPLES / source).glob("*.headers.json"), key=lambda path: (len(path.name), path.name)):
        about = json.loads(beside.read_bytes())
        if not about["_expect"].get("refs") or about["_trust"].get("keys") or "_at" in about:
            continue
        body = beside.with_name(beside.name.replace(".headers.json", ".json"))
        if body.exists():
            return Sample(about["headers"], body.read_bytes(), about["_trust"])
    return None


async def measure(directory: Path) -> list[Figure]:
    """Return accepted pushes a second over an empty handler's, source by source."""
    figures = []
    async with (
        gateway_process(directory / "sources", f"unix://{directory}/none", SETTINGS) as gateway,
        peers.empty_handler() as empty,
    ):
        for source in SOURCES:
            if (sample := sample_of(source)) is None:
                continue
            path = await _endpoint(gateway, source, sample.trust)
            ours, theirs = [], []
            for number in range(PAIRS):
                script = directory / f"{source}.lua"
                await asyncio.to_thread(_write, script, path, sample, first=number * REQUESTS)
                theirs.append(await _wrk(empty.url, script))
                ours.append(await _wrk(gateway.url, script))
            figures.append(figure(f"(j) pushes over empty: {source}", ours, theirs, "/s"))
    return figures


async def _endpoint(gateway: GatewayProcess, source: str, trust: dict[str, Any]) -> str:
    words = [] if SOURCES[source].header_with(trust.get("settings", {})) is None else ["--secret-file", "-"]
    words += ["--host", trust["host"]] if "host" in trust else []
    words += [word for alias in trust.get("aliases", ()) for word in ("--alias", alias)]
    words += [word for pair in trust.get("settings", {}).items() for word in ("--set", "=".join(pair))]
    made = await gateway.cli("webhooks", "create", source, "--json", *words, given=trust["secret"] or "none")
    return str(json.loads(made)["path"])


def _write(script: Path, path: str, sample: Sample, *, first: int) -> None:
    requests = script.with_suffix(".requests.lua")
    with requests.open("w", encoding="utf-8") as file:
        file.write("return {\n")
        for number in range(first, first + REQUESTS):
            headers, body = sample.varied(number)
            told = ", ".join(f"[{_quoted(name)}] = {_quoted(value)}" for name, value in headers.items() if _sent(name))
            file.write(f"{{headers = {{{told}}}, body = {_quoted(body.decode())}}},\n")
        file.write("}\n")
    script.write_text(LUA % (requests, path))


def _sent(name: str) -> bool:
    return name.lower() not in {"host", "content-length", "connection", "accept-encoding", "transfer-encoding"}


def _quoted(text: str) -> str:
    return (
        '"' + "".join(f"\\{byte:03}" if byte in b'"\\\n\r' or byte > 126 else chr(byte) for byte in text.encode()) + '"'
    )


async def _wrk(url: str, script: Path) -> float:
    words = ("wrk", "-t1", "-c32", f"-d{SECONDS}s", "-s", str(script), url)
    process = await asyncio.create_subprocess_exec(*words, stdout=-1)
    out, _ = await process.communicate()
    if b"Non-2xx" in out:
        raise RuntimeError(f"{script.stem}: {out.decode()}")
    found = re.search(rb"Requests/sec:\s+([\d.]+)", out)
    return float(found[1]) if found else 0.0
