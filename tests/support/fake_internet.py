"""A small internet: the registries of the documents by their true names, over TLS, and who pushes and pulls there.

here                                a network and hosts file of their own
┌──────────────────────────┐        ┌──────────────────────────────────────────────┐
│ .1:443  auth.docker.io   │◀──────▶│ .2:443   Docker Hub, GHCR, Quay …: tokens    │
│         the gateway, as  │  veth  │ .3:443   ECR, ACR …: passwords               │
│         its public names │        │ .3:5000  a registry of one's own             │
└──────────────────────────┘        │ .9       dockerd, the gateway, curl, CI      │
                                    └──────────────────────────────────────────────┘
"""

import asyncio
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from aiohttp import ClientSession, TCPConnector, web

from gateway.cli.demo.engine import PrivateEngine, ip, private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import WITH_US, GatewayProcess
from gateway.cli.demo.registry import NotificationEndpoint, PrivateRegistry, private_registry
from gateway.docker.engine.client import Engine, connect
from gateway.model.errors import Unavailable
from gateway.model.reference import Digest, Reference
from tests.scripts.debian import run
from tests.support.command_line import CommandLine
from tests.support.token_service import ISSUER, SERVICE, Tokens

GATEWAY = ("your-domain.com", "dokploy.example.com", "gateway.example.com")
#: where a token is needed, which anybody gets for what is public
TOKENS = (
    "registry-1.docker.io", "index.docker.io", "ghcr.io", "quay.io", "gcr.io", "public.ecr.aws", "registry.gitlab.com",
)  # fmt: skip
#: where a name and password are needed for everything
PASSWORDS = (
    "123456789.dkr.ecr.us-east-1.amazonaws.com", "myregistry.azurecr.io", "us-docker.pkg.dev", "harbor.example.com",
    "acme.jfrog.io", "git.example.com", "zot.example.com", "registry.cn-hangzhou.aliyuncs.com",
)  # fmt: skip
OWN = ("registry.example.com", "nexus.example.com")
PUBLIC = ("library/", "organization/", "project-id/")


@dataclass
class Internet:
    """What is there. `enter` are the words that run a program in it."""

    enter: tuple[str, ...]
    environment: dict[str, str]
    address: str
    dockerd: PrivateEngine
    engine: Engine
    gateway: GatewayProcess
    registries: Sequence[PrivateRegistry]
    _docks: Mapping[str, str] = field(default_factory=dict)

    async def push(self, name: str, image: Image) -> Digest:
        """Put an image where it is named, by the back door of its registry."""
        domain = Reference.parse(name).repository.domain
        return await push(image, name, base=self._docks[domain])

    async def notify(self, endpoints: Sequence[NotificationEndpoint]) -> None:
        """Let the registries tell of pushes from now on."""
        for registry in self.registries:
            await registry.stop()
            registry.endpoints = endpoints
            await registry.start()

    async def sh(self, script: str, place: Path, *, shell: str = "sh", **variables: str) -> str:
        """Run a script in a directory of it, as a person or CI would; raises RuntimeError with what it said.

        What asks before it does something is answered with a yes.
        """
        words = (
            *self.enter,
            "env",
            "-i",
            *(f"{name}={value}" for name, value in {**self.environment, **variables}.items()),
        )
        return await run(*words, shell, "-euc", f"cd {place}\necho y > answer\nexec < answer\n{script}")


@asynccontextmanager
async def small_internet(place: Path, passwords: Mapping[str, str], **settings: str) -> AsyncIterator[Internet]:
    """Run it all until the block is left; `passwords` are those of its users."""
    taken = {name for _, name in socket.if_nameindex()}
    number = secrets.choice([n for n in range(256) if f"inet{n}" not in taken])
    net = f"10.216.{number}"
    trust = _certificates(place)
    _write(place / "hosts", _hosts(net))
    async with AsyncExitStack() as stack:
        enter = await stack.enter_async_context(_network(number, net, place / "hosts"))
        # curl and the Engine take the CA from here, as the gateway does.
        trusting = {"SSL_CERT_FILE": str(place / "ca.pem"), "CURL_CA_BUNDLE": str(place / "ca.pem")}
        dockerd = await stack.enter_async_context(private_engine(trusting, prefix=enter, own_network=True))
        engine = await stack.enter_async_context(connect(dockerd.host))
        gateway = CommandLine(
            place / "gateway", dockerd.host, {**trusting, "GATEWAY_LISTEN": "0.0.0.0:8080", **settings}
        )
        gateway.url, gateway.prefix = f"http://{net}.9:8080", enter
        await asyncio.to_thread((place / "gateway").mkdir)
        tokens = Tokens.issued_by(place, passwords, PUBLIC)
        await stack.enter_async_context(_front(f"{net}.1", trust, tokens, gateway.url))
        prefix = (*enter, "env", *(f"{name}={value}" for name, value in trusting.items()))
        registries, docks = await _registries(stack, place, net, passwords, prefix)
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        gateway.key = await gateway.cli("keys", "create", "tests")
        environment = {
            "PATH": gateway.environment["PATH"], "HOME": str(place / "home"), "KEY": gateway.key, **trusting,
            "DOCKER_HOST": dockerd.host, "DOCKER_BUILDKIT": "0",
        }  # fmt: skip
        _write(place / "home/.curlrc", "fail-with-body\nsilent\nshow-error\n")
        yield Internet(enter, environment, f"{net}.9", dockerd, engine, gateway, registries, docks)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _certificates(place: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    certificate = authority.issue_cert(*GATEWAY, "auth.docker.io", *TOKENS, *PASSWORDS, *OWN)
    authority.cert_pem.write_to_path(place / "ca.pem")
    certificate.private_key_pem.write_to_path(place / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(place / "cert.pem", append=number > 0)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


def _hosts(net: str) -> str:
    known = {"1": (*GATEWAY, "auth.docker.io"), "2": TOKENS, "3": (*PASSWORDS, *OWN)}
    lines = [f"{net}.{last} {name}" for last, names in known.items() for name in names]
    return "\n".join(["127.0.0.1 localhost", *lines, ""])


@asynccontextmanager
async def _network(number: int, net: str, hosts: Path) -> AsyncIterator[tuple[str, ...]]:
    """Hold a network and a mount namespace; yields the words that run a program there."""
    # Names that are in no hosts file are refused at once: nobody listens where they are looked up.
    hold = f"""
        mount --bind {hosts} /etc/hosts && echo nameserver 127.0.0.1 > {hosts}.dns &&
        mount --bind {hosts}.dns /etc/resolv.conf && ip link set lo up && echo ready && exec sleep infinity
    """
    holder = await asyncio.create_subprocess_exec(*WITH_US, "unshare", "--net", "--mount", "sh", "-c", hold, stdout=-1)
    name = f"inet{number}"
    try:
        assert holder.stdout is not None
        if await holder.stdout.readline() != b"ready\n":
            raise Unavailable("no network namespace of its own")
        enter = ("nsenter", f"--target={holder.pid}", "--net", "--mount", "--")
        await ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        await ip("addr", "add", f"{net}.1/24", "dev", name)
        await ip("link", "set", name, "up")
        for last in (9, 2, 3):
            await run(*enter, "ip", "addr", "add", f"{net}.{last}/24", "dev", "eth0")
        await run(*enter, "ip", "link", "set", "eth0", "up")
        await run(*enter, "ip", "route", "add", "default", "via", f"{net}.1")
        # The back door of one of them is what people have on localhost:5000.
        local = ("OUTPUT", "--destination", "127.0.0.1", "--protocol", "tcp", "--dport", "5000")
        await run(*enter, "iptables", "--table", "nat", "-A", *local, "--jump", "DNAT", "--to", f"{net}.9:5000")
        yield enter
    finally:
        holder.terminate()
        await holder.wait()
        # The other end goes with it.


async def _registries(
    stack: AsyncExitStack, place: Path, net: str, passwords: Mapping[str, str], prefix: tuple[str, ...]
) -> tuple[list[PrivateRegistry], dict[str, str]]:
    """Start the registries, and a back door to the images of each that asks for no login."""
    tls = (place / "cert.pem", place / "key.pem")
    realm = {"realm": "https://auth.docker.io/token", "service": SERVICE, "issuer": ISSUER}
    token = {"token": {**realm, "rootcertbundle": str(place / "tokens.pem")}}
    basic = {"htpasswd": {"realm": "registry", "path": str(place / "htpasswd")}}
    _write(place / "htpasswd", await logins(passwords))
    front: list[PrivateRegistry] = []
    docks: dict[str, str] = {}
    for index, (directory, address, auth, names) in enumerate(
        (
            ("own", f"{net}.3:5000", basic, [f"{name}:5000" for name in OWN]),
            ("tokens", f"{net}.2:443", token, ("docker.io", *TOKENS)),
            ("passwords", f"{net}.3:443", basic, PASSWORDS),
        )
    ):
        host, _, port = address.partition(":")
        images = place / directory
        one = private_registry(images, int(port), host=host, tls=tls, auth=auth, prefix=prefix)
        front.append(await stack.enter_async_context(one))
        back = private_registry(
            place / f"{directory}-door", 5000 + index, host=f"{net}.9", images=images, prefix=prefix
        )
        door = await stack.enter_async_context(back)
        docks |= dict.fromkeys(names, f"http://{door.address}")
    return front, docks


async def logins(passwords: Mapping[str, str]) -> str:
    """Return the file of logins; bcrypt is all that docker-registry takes."""
    words = [word for login in passwords.items() for word in login]
    crypt = r'while (my ($n, $p) = splice @ARGV, 0, 2) { print "$n:", crypt($p, "\$2b\$04\$" . "a" x 22), "\n" }'
    return await run("perl", "-e", crypt, "--", *words) + "\n"


@asynccontextmanager
async def _front(address: str, trust: ssl.SSLContext, tokens: Tokens, gateway: str) -> AsyncIterator[None]:
    """Serve tokens, and the gateway under its public names, as a reverse proxy with TLS does."""
    async with ClientSession(connector=TCPConnector(limit=0), auto_decompress=False) as session:

        async def proxy(request: web.Request) -> web.Response:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in {"host", "expect"}}
            url = f"{gateway}{request.raw_path}"
            async with session.request(request.method, url, data=await request.read(), headers=headers) as answer:
                kept = {
                    name: answer.headers[name] for name in ("Content-Type", "X-Deployment-Id") if name in answer.headers
                }
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        app = web.Application()
        app.router.add_get("/token", tokens.answer)
        app.router.add_route("*", "/{path:.*}", proxy)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, 443, ssl_context=trust).start()
            yield
        finally:
            await runner.cleanup()
