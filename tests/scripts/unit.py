"""`make unit-test`: docs/install.md is typed as it stands in a Debian that systemd has booted, and the unit holds.

Each scene says what an operator would see. The packages of Debian and of Python are there before: the Debian has no
way out.
"""

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from gateway.cli.demo.process import FINISHED, until
from tests.scripts import debian
from tests.scripts.booted import Booted, booted
from tests.scripts.debian import ROOT, run

_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "docker.io", "iptables", "iproute2", "procps", "curl", "openssl",
    "ca-certificates", "python3", "python3-venv", "docker-registry", "busybox-static",
)  # fmt: skip
_PAGE = ROOT / "docs/install.md"
_HOME = "/root/checkout"
_ENVIRONMENT = "/etc/pushdeploy/gateway.env"
_PROBE = "/etc/systemd/system/pushdeploy-probe.service"

# What the service tries to do; each line is a claim of the page, and prints the word if it does not hold.
_TRIES = """
cannot() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "CAN: $name"; fi; }
cannot 'write to /etc' touch /etc/probe
cannot 'write to /usr' touch /usr/probe
cannot 'write to /opt/pushdeploy' touch /opt/pushdeploy/probe
cannot 'write beside its state' touch /var/lib/probe
cannot 'write to /run' touch /run/probe
cannot 'read the master key on disk' cat /etc/pushdeploy/master.key
cannot 'enter the home of root' ls /root
cannot 'see a home directory' test -e /home/somebody
cannot 'use a device' cat /dev/probe
cannot 'make a device' mknod /var/lib/pushdeploy/null c 1 3
cannot 'change a kernel setting' sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
cannot 'make a namespace' unshare --user true
cannot 'mount' mount -t tmpfs tmpfs /tmp
cannot 'see processes of others' test -e /proc/1/comm
cannot 'make a program of another user' sh -c 'touch /var/lib/pushdeploy/x && chmod u+s /var/lib/pushdeploy/x'
cannot 'open a raw socket' python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
cannot 'have memory that it writes and runs' python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=7)'
touch /var/lib/pushdeploy/probe /tmp/probe
test "$(stat -c %a /var/lib/pushdeploy/probe)" = 600
rm /var/lib/pushdeploy/probe
test -s "$CREDENTIALS_DIRECTORY/master-key"
curl --silent --fail --unix-socket /var/run/docker.sock http://engine/version >/dev/null
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
id
"""


class Host:
    """The Debian with the gateway as its service, and a count of what was typed."""

    def __init__(self, machine: Booted) -> None:
        self._machine = machine
        self.since = monotonic()

    def say(self, text: str) -> None:
        print(f"{monotonic() - self.since:6.1f} s  {text}", flush=True)  # noqa: T201 - for whoever runs it

    async def sh(self, script: str) -> str:
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/root/wheels"}
        return await self._machine.sh(f"cd {_HOME}\n{script}", **offline)

    async def sh_of_user(self, script: str) -> str:
        """Run a script as an ordinary user of the group docker would type it."""
        offline = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/home/wheels"
        typed = f"{offline}\ncd ~/checkout; PATH=~/pushdeploy/bin:$PATH\n{script}"
        return await self.sh(f"runuser -l somebody -c 'bash -eu' <<'END'\n{typed}\nEND")

    async def is_ready(self) -> bool | None:
        return await self.sh("curl --silent --fail http://127.0.0.1:8080/readyz || true") != "" or None

    async def boot_again(self) -> None:
        await self._machine.halt()
        await self._machine.boot()

    async def property(self, name: str) -> str:
        return await self.sh(f"systemctl show --property={name} --value pushdeploy")

    async def status(self) -> str:
        return await self.sh("systemctl status --no-pager --full pushdeploy || true")

    async def shows(self, *words: str) -> str:
        """Wait until systemctl's status has each of these."""

        async def look() -> str | None:
            said = await self.status()
            return said if all(word in said for word in words) else None

        try:
            return await until(look, within=60)
        except TimeoutError:
            raise AssertionError(f"no {words} in: {await self.status()}") from None

    async def deployments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = orjson.loads(await self.sh("gateway deployments list web --json"))
        return found

    async def serves(self, version: str, *, within: float = 60) -> None:
        async def look() -> bool | None:
            return await self.sh("curl --silent http://127.0.0.1:8000 || true") == version or None

        await until(look, within=within)

    async def settles(self, count: int) -> dict[str, Any]:
        """Wait until there are so many deployments and all have ended; return the newest."""

        async def look() -> dict[str, Any] | None:
            found = await self.deployments()
            return found[0] if len(found) >= count and all(one["state"] in FINISHED for one in found) else None

        return await until(look, within=120)

    async def begins_to_swap(self, version: str) -> None:
        """Push a version, and wait until its container runs."""
        before = set((await self.sh("docker ps --quiet --no-trunc")).split())
        await self.sh(f"gateway demo push {version}")

        async def look() -> bool | None:
            return bool(set((await self.sh("docker ps --quiet --no-trunc")).split()) - before) or None

        await until(look, within=60)

    async def set(self, *settings: str) -> None:
        """Let the service start with the settings of the page and these."""
        lines = "\n".join(("GATEWAY_PUBLIC_URL=https://gateway.example.com", *settings))
        await self.sh(f"cat > {_ENVIRONMENT} <<'END'\n{lines}\nEND")


def printed(begins: str, ends: str) -> list[str]:
    """Return the commands that the page prints between these words."""
    text = _PAGE.read_text(encoding="utf-8")
    part = text[text.index(begins) : text.index(ends)]
    return [line.strip().split("  # ")[0].rstrip() for line in re.findall(r"^    (.+)$", part, re.MULTILINE)]


async def tries_by_pip_alone(host: Host) -> None:
    """From nothing to the first push that is deployed, as an ordinary user without a service."""
    program = printed("**To look at it first,**", "**The program,**")
    push = printed("**The first push.**", "With [a registry")
    await host.sh("useradd --create-home --groups docker somebody; cp -r . /home/somebody/checkout")
    await host.sh("chown -R somebody: /home/somebody; cp -r /root/wheels /home/wheels; chmod -R a+rX /home/wheels")
    began = monotonic()
    *installs, serves = program
    await host.sh_of_user("\n".join(installs))
    await host.sh(f"systemd-run --quiet --unit=terminal --uid=somebody bash -c '{serves}'")
    try:
        await until(host.is_ready, within=120)
        *as_root, ask = [line for line in push if not line.startswith("gateway ")]
        await host.sh("\n".join(as_root))
        await host.sh_of_user("\n".join(line for line in push if line.startswith("gateway ")))
        assert ask.startswith("curl "), ask
        await host.serves("v2")
        count, took = len(program) + len(push), monotonic() - began
        host.say(f"by pip alone, from nothing to a first push deployed: {count} commands, {took / 60:.1f} minutes")
        await host.sh_of_user("gateway apps delete web --yes --follow; gateway demo registry --stop")
    finally:
        await host.sh("systemctl stop terminal")
    await host.sh("userdel --remove somebody; rm -r /home/wheels")


async def installs(host: Host) -> None:
    """From nothing to the first push that is deployed, by the page."""
    program = printed("**The program,**", "**Its user,")
    service = printed("**Its user,", "**The first push.**")
    push = printed("**The first push.**", "With [a registry")
    began = monotonic()
    await host.sh("\n".join(program))
    host.say(f"installed the program, by {len(program)} commands")
    await host.sh("\n".join(service))
    assert await host.property("ActiveState") == "active"
    host.say(f"the unit is set up and serves, by {len(service)} commands")
    *before, ask = push
    await host.sh("\n".join(before))
    assert ask.startswith("curl "), ask
    await host.serves("v2")
    host.say(f"the first push is deployed, by {len(push)} commands")
    count, took = len(program) + len(service) + len(push), monotonic() - began
    host.say(f"from nothing to a first push deployed: {count} commands, {took / 60:.1f} minutes")


async def is_closed(host: Host) -> None:
    """The process has no privilege, and cannot do what the page says that it cannot."""
    unit = (ROOT / "deploy/pushdeploy.service").read_text(encoding="utf-8")
    probe = unit.replace("/opt/pushdeploy/bin/gateway serve", "/bin/sh /opt/tries").replace("=notify", "=oneshot")
    probe = re.sub(r"^(Restart|RestartSec)=.*\n", "", probe, flags=re.MULTILINE)
    await host.sh("install -d /home/somebody; mknod -m 666 /dev/probe c 1 3")
    await host.sh(f"cat > {_PROBE} <<'END'\n{probe}END\ncat > /opt/tries <<'END'\n{_TRIES}END")
    try:
        await host.sh("systemctl daemon-reload; systemctl start pushdeploy-probe")
    finally:
        said = await host.sh("journalctl --no-pager -o cat -u pushdeploy-probe")
    assert "CAN:" not in said, said
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in said, said
    assert re.search(r"uid=\d+\(pushdeploy\) .*\(docker\)", said), said
    pid = await host.property("MainPID")
    about = await host.sh(f"cat /proc/{pid}/status; tr '\\0' '\\n' < /proc/{pid}/environ")
    assert "CapEff:\t0000000000000000" in about, about
    assert "Seccomp:\t2" in about, about
    assert await host.sh("cat /etc/pushdeploy/master.key") not in about, "the key is in the environment"
    rated = await host.sh("systemd-analyze security --no-pager pushdeploy")
    host.say(re.findall(r"Overall exposure level.*", rated)[0].partition(": ")[2])


async def restarts(host: Host) -> None:
    """A restart leaves what was deployed alone."""
    before = await host.sh("docker ps --quiet --filter name=web")
    await host.sh("systemctl restart pushdeploy")
    assert await host.sh("docker ps --quiet --filter name=web") == before
    await host.shows("Serving at http://127.0.0.1:8080")
    assert (await host.sh("gateway doctor --json || true")).find('"failed"') < 0


async def finishes_a_rollout_when_it_stops(host: Host) -> None:
    """`systemctl stop` waits for the rollout that is under way."""
    count = len(await host.deployments())
    await host.begins_to_swap("v3")
    await host.sh("systemctl stop pushdeploy")
    assert (await host.property("Result"), await host.property("ActiveState")) == ("success", "inactive")
    await host.serves("v3", within=5)
    assert await host.sh("pgrep -u pushdeploy || true") == "", "processes are left"
    await host.sh("systemctl start pushdeploy")
    assert (await host.settles(count + 1))["state"] == "succeeded"


async def puts_back_what_does_not_finish(host: Host) -> None:
    """A rollout that takes longer than the grace is put back, and done again at the next start."""
    count = len(await host.deployments())
    await host.set("GATEWAY_SHUTDOWN_GRACE=1", "GATEWAY_STABLE_WINDOW=20")
    await host.sh("systemctl restart pushdeploy")
    await host.begins_to_swap("v4")
    await host.sh("systemctl stop pushdeploy")
    assert await host.property("Result") == "success"
    await host.serves("v3", within=5)
    await host.set()
    await host.sh("systemctl start pushdeploy")
    assert (await host.settles(count + 1))["state"] == "succeeded"
    await host.serves("v4", within=5)


async def comes_back_after_a_crash(host: Host) -> None:
    """A gateway that was killed in a rollout is started again, and finishes the rollout."""
    count = len(await host.deployments())
    await host.begins_to_swap("v5")
    await host.sh("systemctl kill --kill-who=main --signal=KILL pushdeploy")

    async def started_again() -> bool | None:
        return int(await host.property("NRestarts")) == 1 or None

    await until(started_again, within=60)
    await host.shows("Serving at")
    assert (await host.settles(count + 1))["state"] == "succeeded"
    await host.serves("v5", within=5)


async def says_that_its_database_is_missing(host: Host) -> None:
    """The start fails, the status says why, and it serves once that is mended."""
    await host.set("GATEWAY_DATABASE_URL=postgresql://gateway@127.0.0.1:5999/gateway")
    assert await host.sh("systemctl restart pushdeploy >/dev/null 2>&1 || echo failed") == "failed"
    await host.shows('Status: "cannot connect to PostgreSQL', "check GATEWAY_DATABASE_URL")
    said = await host.sh("gateway keys create laptop 2>&1 || true")
    assert "systemctl status pushdeploy" in said, said
    assert "systemctl status pushdeploy" in await host.sh("gateway doctor || true")
    assert await host.sh("test -e /root/.local && echo made || true") == "", "a new installation was made"
    await host.set()
    await host.shows("Serving at")


async def says_that_a_setting_is_wrong(host: Host) -> None:
    """The status names a misspelt setting."""
    await host.set("GATEWAY_CONCURENCY=3")
    await host.sh("systemctl restart pushdeploy || true")
    await host.shows('Status: "', "GATEWAY_CONCURENCY")
    await host.set()
    await host.shows("Serving at")


async def says_that_its_key_is_missing(host: Host) -> None:
    """Without its master key it does not start, and makes no other one."""
    await host.sh("mv /etc/pushdeploy/master.key /root/kept; systemctl restart pushdeploy || true")
    await host.shows("CREDENTIALS")
    assert await host.sh("ls /var/lib/pushdeploy | grep master || true") == ""
    await host.sh("mv /root/kept /etc/pushdeploy/master.key; systemctl restart pushdeploy")
    await host.shows("Serving at")


async def says_that_its_engine_is_missing(host: Host) -> None:
    """It serves without its engine, and the status says so for as long as it is so."""
    await host.sh("systemctl stop docker.socket docker.service")
    await host.shows('Status: "Serving at', "no Docker Engine answers at unix:///var/run/docker.sock")
    await host.sh("systemctl start docker.service")
    await host.shows('Status: "Serving at http://127.0.0.1:8080"')


async def starts_with_the_machine(host: Host) -> None:
    """After the machine lost its power, it serves again by itself, and deploys the next push."""
    count = len(await host.deployments())
    await host.boot_again()
    await host.shows("Serving at")
    # The registry of the try ended with the machine.
    await host.sh("gateway demo registry; gateway demo push v6; gateway deploy web --follow")
    assert (await host.settles(count + 1))["state"] == "succeeded"
    await host.serves("v6")


async def is_uninstalled(host: Host) -> None:
    """What the page says removes it, and what it deployed goes on."""
    await host.sh(
        "systemctl disable --now pushdeploy; userdel pushdeploy\n"
        "rm -r /opt/pushdeploy /etc/pushdeploy /var/lib/pushdeploy"
    )
    await host.serves("v6", within=5)


SCENES = (
    tries_by_pip_alone, installs, is_closed, restarts, finishes_a_rollout_when_it_stops, puts_back_what_does_not_finish,
    comes_back_after_a_crash, says_that_its_database_is_missing, says_that_a_setting_is_wrong,
    says_that_its_key_is_missing, says_that_its_engine_is_missing, starts_with_the_machine, is_uninstalled,
)  # fmt: skip


async def lay_out(tree: Path, directory: Path) -> None:
    """Give the Debian what an operator has: a checkout with its wheel built, and the packages downloaded."""
    checkout = tree / _HOME.lstrip("/")
    await asyncio.to_thread((checkout / "dist").mkdir, parents=True)
    await asyncio.to_thread(shutil.copytree, ROOT / "deploy", checkout / "deploy")
    await asyncio.to_thread(shutil.copy, ROOT / "requirements.txt", checkout)
    pip = (sys.executable, "-m", "pip")
    await run(*pip, "wheel", "-q", "--no-deps", "-w", str(checkout / "dist"), str(ROOT))
    wheels = str(tree / "root/wheels")
    await run(
        *pip, "download", "-q", "--no-deps", "--require-hashes", "-r", str(ROOT / "requirements.txt"), "-d", wheels
    )


async def main(wanted: Sequence[str]) -> bool:
    held = True
    with tempfile.TemporaryDirectory(prefix="gateway-unit-") as place:
        directory = Path(place)
        async with booted(await debian.tree("booted", _PACKAGES), directory) as machine:
            host = Host(machine)
            await lay_out(directory / "debian", directory)
            host.say(
                f"booted {await machine.sh('. /etc/os-release; echo $PRETTY_NAME; systemctl --version | head -1')}"
            )
            host.since = monotonic()
            for scene in SCENES:
                if wanted and scene.__name__ not in wanted:
                    continue
                try:
                    await scene(host)
                    host.say(f"{scene.__name__}: holds")
                except Exception as error:
                    held = False
                    host.say(f"{scene.__name__}: FAILS: {type(error).__name__} {str(error)[:3000]}")
            if not held:
                print(await machine.sh("journalctl --no-pager -u pushdeploy | tail -80"), file=sys.stderr)  # noqa: T201
    return held


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main(sys.argv[1:])) else 1)
