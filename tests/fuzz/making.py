"""Makes requests: good ones, and every way in which one can be wrong."""

import gzip
import json
from dataclasses import dataclass
from random import Random

from gateway.api.procedures.catalog import PROCEDURES
from tests.fuzz.mutation import mutate
from tests.fuzz.worst import WIRE
from tests.support.samples import OURS

_METHODS = (b"GET", b"POST", b"POST", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"PATCH", b"DELETE", b"TRACE", b"CONNECT")
_ODD_METHODS = (b"BREW", b"get", b"", b"G\0T", b"PROPFIND", b"POST POST", b"\xff")
_PLAIN = (
    *("/", "/healthz", "/readyz", "/metrics", "/api/docs", "/api/health", "/api", "/api/trpc", "/webhooks", "/x", "*"),
)
_IN_PATHS = (
    *(b"/", b"//", b"/.", b"/..", b"%2f", b"%00", b"%ff", b"%", b"?", b"#", b"\xff", b"\\", b";", b" ", b"\0"),
    b"a" * 300,
)
_NAMES = (
    "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Expect", "Connection", "Upgrade",
    "Host", "x-api-key", "X-Forwarded-For", "trpc-accept", "X-GitHub-Event", "X-Hub-Signature-256", "Authorization",
    "Accept", "Cookie", "Origin", "Range", "If-None-Match", "Accept-Encoding", "X-Foo", "Date", "webhook-id",
    "webhook-timestamp",
)  # fmt: skip
_VALUES = (
    b"", b" ", b"0", b"-1", b"9" * 25, b"9" * 5000, b"1e9", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"a\tb",
    b"a" * 8000, b"a" * 9000, b"a\rb", b"a\nb", b"a\0b", b"chunked", b"gzip", b"gzip, chunked", b"br", b"identity",
    b"deflate", b"100-continue", b"close", b"keep-alive", b"websocket", b"h2c", b"application/json", b"*/*", b"ping",
    b"application/jsonl", b"text/plain; charset=\xff", b"Bearer x", b"Basic eDp5", b"Basic \xff", b"1.2.3.4, \xff",
    b"sha256=" + b"0" * 64, b"127.0.0.1", b"::1", b"fe80::1%\xff", b"bytes=0-", b'{"a":1}',
)  # fmt: skip
_GIVEN: tuple[object, ...] = (
    *(None, "", "app-123", "acme/app:v1", 1, -1, 2**63, 10**30, 1e30, [], {}, ["\0"], "\udcff", "a" * 5000),
)
_QUERIES = (
    *(f"?input={one}" for one in ('{"applicationId":"app-123"}', '{"json":{"applicationId":"app-123"}}', "{", "[]")),
    *("?applicationId=app-123", "?limit=9" + "9" * 30, "?" + "a&" * 2000, ""),
)
_TYPED = ("9" * 5000, "a" * 9000 + "\\", "applicationId", "a.b")
_ENDS = (b"0\r\n\r\n", b"0\r\n\r\n", b"", b"zz\r\n")
_KEPT = 2000  # requests that are sent again
_WILD = 0.35  # of all requests: their heads are wrong, or odd


@dataclass(frozen=True, slots=True)
class Known:
    """Addresses and keys that are good."""

    paths: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """One request."""

    data: bytes
    method: bytes
    keyed: bool


class Maker:
    """Makes one after the other, the same ones from the same numbers."""

    def __init__(self, known: Known, random: Random) -> None:
        self._known, self._random = known, random
        self._kept: list[Made] = []
        self._bodies = [one.request.body for one in OURS]
        self._procedures = sorted(PROCEDURES)

    def make(self) -> Made:
        random = self._random
        if len(self._kept) >= _KEPT and random.random() < 0.7:
            return random.choice(self._kept)
        made = self._make()
        if len(self._kept) < _KEPT:
            self._kept.append(made)
        else:
            self._kept[random.randrange(_KEPT)] = made
        return made

    def _make(self) -> Made:
        random = self._random
        wild = random.random() < _WILD
        path, usual = self._path()
        method = random.choice(_METHODS) if wild and random.random() < 0.5 else usual
        key = random.choice((*self._known.keys, "", f"wrong {random.random()}", "gw_\xff"))
        body, sized = self._sized(self._body())
        headers = [(b"Host", b"x"), (b"Content-Type", b"application/json"), *sized]
        if key:
            headers.append((b"x-api-key", key.encode("latin-1")))
        version, end = b"HTTP/1.1", b"\r\n"
        if wild:
            path = self._spoilt(path)
            headers = self._odd(headers)
            method = random.choice(_ODD_METHODS) if random.random() < 0.05 else method
            version = random.choice((*[version] * 20, b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b""))
            end = b"\n" if random.random() < 0.05 else end
        lines = [b" ".join((method, path, version)), *(name + b": " + value for name, value in headers)]
        return Made(end.join(lines) + end + end + body, method, key in self._known.keys)

    def _odd(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        random, odd = self._random, headers.copy()
        for _ in range(random.choice((1, 1, 2, 5, 130))):
            odd.append((random.choice(_NAMES).encode(), random.choice(_VALUES)))
        if random.random() < 0.1:
            odd.append((random.choice((b"", b"X Y", b"X\xff", b"X:", b"x" * 9000)), b"v"))
        if random.random() < 0.3:
            odd.remove(random.choice(odd))
        random.shuffle(odd)
        return odd

    def _path(self) -> tuple[bytes, bytes]:
        """Return a path, and the method that goes with it."""
        random = self._random
        kind = random.random()
        if kind < 0.1:
            return random.choice(_PLAIN).encode(), b"GET"
        if kind < 0.45:
            return random.choice(self._known.paths).encode(), b"POST"
        if kind < 0.5:
            return f"/webhooks/{random.choice(('github', 'ecr', 'nothing'))}/{random.random()}".encode(), b"POST"
        if kind < 0.52:
            return b"/a" * random.choice((1, 30, 5000, 30_000)), b"GET"
        names = [random.choice(self._procedures) for _ in range(random.choice((1, 1, 1, 1, 2, 10, 60)))]
        method = b"GET" if PROCEDURES[names[0]].kind == "query" else b"POST"
        batch = "?batch=1" if len(names) > 1 else "" if method == b"POST" else self._query()
        return f"/api/{random.choice(('', 'trpc/'))}{','.join(names)}{batch}".encode(), method

    def _spoilt(self, path: bytes) -> bytes:
        for _ in range(self._random.choice((0, 0, 1, 3))):
            at = self._random.randint(0, len(path))
            path = path[:at] + self._random.choice(_IN_PATHS) + path[at:]
        return path

    def _query(self) -> str:
        return self._random.choice(_QUERIES)

    def _body(self) -> bytes:
        random = self._random
        kind = random.random()
        if kind < 0.15:
            return b""
        if kind < 0.35:
            return mutate(random.choice(self._bodies), random)
        if kind < 0.4:
            return bytes(random.choice(WIRE).make(random.choice((100, 10_000, 100_000))))
        if kind < 0.42:
            return random.randbytes(random.choice((1, 1000, 100_000)))
        if kind < 0.425:
            return b" " * random.choice((1 << 20, (1 << 20) + 1, 3 << 20))
        given = json.dumps(self._given()).encode()
        before = random.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\xff"))
        return before + (mutate(given, random) if kind < 0.6 else given)

    def _given(self) -> object:
        """Return an input of some procedure, each of its fields of some value."""
        random = self._random
        fields = PROCEDURES[random.choice(self._procedures)].takes.model_json_schema().get("properties", {})
        given = {name: random.choice(_GIVEN) for name in fields if random.random() < 0.5}
        given["applicationId"] = "app-123"
        if random.random() < 0.2:
            given |= {"9" * 25: "\0", "ulimitsSwarm": [{"Name": "nofile", "Soft": 10**30, "Hard": 1}]}
        types = {random.choice(_TYPED): [random.choice(("undefined", "bigint", "Date", "number"))]}
        return given if random.random() < 0.5 else {"json": given, "meta": {"values": types}}

    def _sized(self, body: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the body as it is sent, and the headers that say how."""
        random = self._random
        headers: list[tuple[bytes, bytes]] = []
        if random.random() < 0.1:
            packed = gzip.compress(random.choice((body, bytes(10 << 20) if random.random() < 0.05 else body)), 1)
            body = packed if random.random() < 0.8 else packed[: len(packed) // 2]
            headers.append((b"Content-Encoding", random.choice((b"gzip", b"gzip", b"deflate", b"br"))))
        if random.random() < 0.1:
            cut = max(1, len(body) // 3)
            parts = [body[at : at + cut] for at in range(0, len(body), cut)]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            return chunks + random.choice(_ENDS), [*headers, (b"Transfer-Encoding", b"chunked")]
        size = len(body) if random.random() < 0.97 else random.choice((len(body) + 1, len(body) // 2, 10**7))
        return body, [*headers, (b"Content-Length", str(size).encode())]
