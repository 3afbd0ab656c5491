"""What bash, zsh and fish complete, in each of them, from the file that `gateway completion` installs."""

import asyncio
import os
import pty
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from gateway.cli import _completion, main
from gateway.cli.demo.process import until
from tests.support.api_client import Web

MISSING = "is not here: as root, make test installs Debian's"
#: a name that bash would run as a command, if it were completed
EVIL = "evil;touch$IFS$HOME/run"

#: how each shell begins, with the completion where it was installed. Zsh completes nothing while more keys come, so it
#: prints the line by itself
BEGINS = {
    "bash": ". ~/.local/share/bash-completion/completions/gateway; PS1=; echo ready\n",
    "zsh": """
fpath+=(~/.zfunc); autoload -Uz compinit; compinit -u; bindkey -e; PS1=
tab() { zle expand-or-complete; print -r -- $'\\n'"line: $BUFFER"; BUFFER= }
zle -N tab; bindkey '^I' tab; echo ready
""",
}
#: the keys to complete a line and have it printed. To bash, the beginning of the line is typed last: it prints the line
#: instead of running it
TABS = {"bash": "\t\x01echo 'line:' \n", "zsh": "\t"}


class Home:
    """A user whose shell completes the words of `gateway`, from a gateway over HTTP."""

    def __init__(self, web: Web, path: Path) -> None:
        self.path = path
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(path),
            "ZDOTDIR": str(path),
            "TERM": "dumb",
            "GATEWAY_URL": str(web.client.make_url("/")),
            "GATEWAY_API_KEY": web.key,
        }

    async def install(self, shell: str) -> str:
        """Install the completion of a shell, and return what the command printed."""
        runner = CliRunner(env={**self.environment, "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""})
        words = ("completion", shell, "--install")
        done = await asyncio.to_thread(runner.invoke, cast("click.Command", main), words)
        assert done.exit_code == 0, done.stderr
        return done.stdout


@pytest.fixture
async def home(shared_web: Web, tmp_path: Path) -> Home:
    for name in ("tabbed", EVIL, "with space"):
        if name not in {one["name"] for one in await shared_web.query("application.all")}:
            await shared_web.mutate("application.create", name=name, dockerImage="acme/shop:1")
    (tmp_path / "variables.env").write_text("A=1\n", encoding="utf-8")
    return Home(shared_web, tmp_path)


class Terminal:
    """A shell on a terminal."""

    def __init__(self, leader: int, tab: str) -> None:
        self._leader, self._tab, self._seen = leader, tab, ""
        asyncio.get_running_loop().add_reader(leader, self._read)

    def _read(self) -> None:
        with suppress(OSError):  # the shell has ended
            self._seen += os.read(self._leader, 65536).decode(errors="replace")

    async def shows(self, text: str) -> str:
        """Wait until it shows this, and return all that it has shown since the last time."""

        async def look() -> str | None:
            return self._seen if text in self._seen else None

        found = await until(look, within=60)
        self._seen = ""
        return found

    async def completes(self, line: str, whole: str) -> None:
        """Type the line and a tabulator until the line is this: the gateway may not answer in time."""

        async def look() -> bool | None:
            os.write(self._leader, f"{line}{self._tab}".encode())
            shown = await self.shows("\nline: ")
            while "\n" not in (rest := shown.rpartition("\nline: ")[2]):
                shown += await self.shows("\n")
            return rest.partition("\n")[0].strip() == whole or None

        await until(look, within=60)


@pytest.fixture
async def terminal(home: Home, request: pytest.FixtureRequest) -> AsyncIterator[Terminal]:
    shell: str = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} {MISSING}")
    await home.install(shell)
    for name, script in BEGINS.items():
        (home.path / f".{name}rc").write_text(script, encoding="utf-8")
    leader, follower = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        shell, "-i", env=home.environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    terminal = Terminal(leader, TABS[shell])
    try:
        await terminal.shows("ready")
        yield terminal
    finally:
        asyncio.get_running_loop().remove_reader(leader)
        os.close(leader)
        process.kill()
        await process.wait()


@pytest.mark.parametrize("terminal", ["bash", "zsh"], indirect=True)
async def test_a_shell_completes_commands_options_names_and_files(terminal: Terminal, home: Home) -> None:
    await terminal.completes("gateway apps sho", "gateway apps show")
    await terminal.completes("gateway apps show tabb", "gateway apps show tabbed")
    await terminal.completes("gateway deploy x --ta", "gateway deploy x --tag")
    creates = f"gateway apps create x y --env-file {home.path}"
    await terminal.completes(f"{creates}/vari", f"{creates}/variables.env")


async def test_fish_completes_commands_options_names_and_files_and_describes_them(home: Home) -> None:
    if shutil.which("fish") is None:
        pytest.skip(f"fish {MISSING}")
    await home.install("fish")

    async def completions(line: str) -> list[str] | None:
        process = await asyncio.create_subprocess_exec(
            "fish", "-c", f"complete -C 'gateway {line}'", env=home.environment, stdout=-1
        )
        return (await process.communicate())[0].decode().splitlines() or None

    (show,) = await until(lambda: completions("apps sho"))
    assert show == "show\tShow one application, by id, the beginning..."
    (named,) = await until(lambda: completions("apps show tabb"))
    assert named.startswith("tabbed\t")
    (file,) = await until(lambda: completions(f"apps create x y --env-file {home.path}/vari"))
    assert file.strip() == f"{home.path}/variables.env"


async def test_a_name_that_means_something_to_a_shell_is_completed_by_its_id(
    home: Home, shared_web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bash inserts what it is told as it is."""
    monkeypatch.setattr(_completion, "_PATIENCE", 60.0)
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    asked = BashComplete(cast("click.Command", main), {}, "gateway", "_GATEWAY_COMPLETE")
    found = await asyncio.to_thread(asked.get_completions, ["apps", "show"], "")
    ids = {one["name"]: one["applicationId"] for one in await shared_web.query("application.all")}
    values = {one.value for one in found}
    assert {"tabbed", ids[EVIL], ids["with space"]} <= values
    assert not {EVIL, "with space"} & values
    assert await asyncio.to_thread(asked.get_completions, ["apps", "show"], "evil") == []


def parameters(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Parameter]]:
    yield from ((" ".join(words), one) for one in command.params)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from parameters(inner, (*words, name))


def test_each_option_for_a_file_or_a_name_completes_it() -> None:
    """By its placeholder, or its name where it has none."""
    placeholders = {"FILE", "FILE|DIRECTORY", "APP", "PROJECT", "ALERT", "DEPLOYMENT", "[SERVER]"}
    options = {"--app", "--context", "--environment", "--project", "--server", "--source", "--webhook"}
    silent = [
        f"{words} {one.opts[0]}"
        for words, one in parameters(cast("click.Command", main))
        if (one.metavar in placeholders or options.intersection(one.opts) or one.opts[0].endswith("-file"))
        and one._custom_shell_complete is None  # noqa: SLF001 - click tells it nowhere else
    ]
    assert silent == ["deploy --source"]  # a URL
