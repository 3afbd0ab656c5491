"""`gateway man` and `gateway completion`: what is made from the commands themselves."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from gateway.cli._completion import script_for
from gateway.cli._errors import CANCELLED, FAILED, INTERRUPTED, SUPERSEDED, UNKNOWN, USAGE
from gateway.cli._runner import command, plain_json_option, print_json, print_result, print_text
from gateway.model.errors import InvalidInput
from gateway.version import VERSION

_SHELLS = ("bash", "zsh", "fish")
EXIT_CODES = (
    (0, "done; with --follow: the requested version runs"),
    (FAILED, "refused or failed; with --follow: failed or rolled back; gates check: a gate refuses"),
    (USAGE, "the command is not written so, see --help; apply --plan: something would change"),
    (UNKNOWN, "not known: no gateway or engine answered, or none rolls out; gates check: a gate cannot tell"),
    (SUPERSEDED, "with --follow: a newer deployment took its place"),
    (CANCELLED, "with --follow: it was cancelled"),
    (INTERRUPTED, "interrupted; with --follow: the deployment goes on"),
)
VARIABLES = (
    ("GATEWAY_URL", "The gateway to ask, for example https://gateway.example.com."),
    ("GATEWAY_API_KEY", "The API key for GATEWAY_URL."),
    ("GATEWAY_API_KEY_FILE", "A file with that key."),
    ("GATEWAY_CONTEXT", "The context to use, as --context does."),
    ("SSL_CERT_FILE", "Certificates to trust for https, instead of the system's."),
)


@click.command()
@click.option("--format", "form", type=click.Choice(["man", "markdown"]), default="man", show_default=True)
@plain_json_option
@click.pass_context
def man(context: click.Context, *, form: str, as_json: bool) -> None:
    """Print the manual of all commands, as a man page: gateway man > gateway.1."""
    pages = list(_walk(context.find_root().command, ("gateway",)))
    if as_json:
        print_json([{"command": " ".join(words), "help": _help(one)} for words, one in pages])
        return
    print_text(_man(pages) if form == "man" else _markdown(pages), end="")


def _walk(found: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command with its words, groups before what is in them."""
    yield words, found
    if isinstance(found, click.Group):
        context = click.Context(found, info_name=words[-1])
        for name in found.list_commands(context):
            inner = found.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _walk(inner, (*words, name))


def _help(found: click.Command) -> str:
    """Return the help in paragraphs, each on one line."""
    paragraphs = re.split(r"\n\s*\n", (found.help or "").strip())
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


def _usage(words: Sequence[str], found: click.Command) -> str:
    if isinstance(found, click.Group):
        return f"{' '.join(words)} COMMAND"
    context = click.Context(found, info_name=words[-1])
    return " ".join([*words, *found.collect_usage_pieces(context)])


def _options(found: click.Command) -> list[tuple[str, str]]:
    """Return how each option is written, and what it does; --help is the same everywhere."""
    context = click.Context(found)
    records = (one.get_help_record(context) for one in found.params)
    return [(name, " ".join(text.split())) for name, text in filter(None, records)]


def _man(pages: Sequence[tuple[tuple[str, ...], click.Command]]) -> str:
    lines = [
        f'.TH GATEWAY 1 "" "Pushdeploy {VERSION}"',
        ".SH NAME",
        "gateway \\- deploy Docker images the moment they are pushed",
        ".SH SYNOPSIS",
        ".B gateway",
        "COMMAND [OPTIONS] [ARGUMENTS]",
        ".SH COMMANDS",
    ]
    for words, found in pages[1:]:
        lines += [f".SS {_roff(_usage(words, found))}"]
        lines += [line for one in _help(found).split("\n\n") for line in (_roff(one), ".PP")][:-1]
        for name, text in _options(found):
            lines += [".TP", f".B {_roff(name)}", _roff(text)]
    lines.append(".SH EXIT STATUS")
    lines += [line for code, text in EXIT_CODES for line in (".TP", f".B {code}", _roff(text))]
    lines.append(".SH ENVIRONMENT")
    lines += [line for name, text in VARIABLES for line in (".TP", f".B {name}", _roff(text))]
    return "".join(f"{line}\n" for line in lines)


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _markdown(pages: Sequence[tuple[tuple[str, ...], click.Command]]) -> str:
    lines = [_INTRODUCTION, "## Exit codes", "", "| Code | Meaning |", "| --- | --- |"]
    lines += [f"| {code} | {text} |" for code, text in EXIT_CODES]
    lines += ["", "## Variables", "", "| Variable | Meaning |", "| --- | --- |"]
    lines += [f"| `{name}` | {text} |" for name, text in VARIABLES]
    lines += ["", "## Commands", ""]
    for words, found in pages[1:]:
        usage = [] if isinstance(found, click.Group) else [f"`{_usage(words, found)}`", ""]
        lines += [f"{'#' * (len(words) + 1)} {' '.join(words)}", "", *usage, _help(found), ""]
        options = _options(found)
        if options:
            rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in options]
            lines += ["| Option | |", "| --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_INTRODUCTION = """# The command line

After this page you can run `gateway` from a laptop, on the gateway's own host, and before a gateway runs. It is made
from the help of the commands; `gateway man` prints the same as a man page.

## Which gateway a command asks

The first of these that is given:

1. `--local`: none. The command opens the database of this host itself.
2. `--context NAME`, or `GATEWAY_CONTEXT`: the gateway that `gateway login` saved under this name.
3. `GATEWAY_URL`, with `GATEWAY_API_KEY` or `GATEWAY_API_KEY_FILE`, else the key that `gateway login` saved for it.
4. `GATEWAY_DATABASE_URL` or `GATEWAY_DATA_DIR`: the gateway that runs there; where none runs, the database.
5. The current context: the last `gateway login`, or `gateway contexts use`.
6. This host: the gateway that runs here; where none runs, the database in the data directory.

A command never migrates a database: it refuses one of another version. It makes a new database only where you name an
empty one, or with the first `gateway keys create`.

**From a laptop.** Make a key where the gateway runs, and log in with it. The key is asked for, or read from standard
input; it is never an argument. It is kept in `pushdeploy/contexts.json` in your configuration directory, which only you
can read, and is sent to that address alone: the gateway's certificate is verified, and a redirect is not followed.

```sh
gateway login https://gateway.example.com
gateway status
```

**On the gateway's host** a command needs no key. The gateway listens on a Unix socket in its data directory, which only
its own user and root can use; the audit has the user's name.

**Names.** An application, webhook, server and so on can be named by its id, its name, or the first four or more
characters of its id. A word that can mean several is refused, with what it can mean.

**Completion.** `gateway completion bash --install` (or `zsh`, `fish`) completes commands, options and names.
"""


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.option("--install", is_flag=True, help="Write it to where the shell looks for it, instead of printing it.")
@plain_json_option
@command
async def completion(shell: str, *, install: bool, as_json: bool) -> None:
    """Print the completion of commands, options and names for SHELL: bash, zsh or fish."""
    from gateway.cli import main

    script = script_for(main, shell)
    if not install:
        print_result({"shell": shell, "script": script}, script, as_json=as_json)
        return
    path = _place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
    if as_json:
        print_json({"shell": shell, "path": str(path)})
    else:
        also = "; add its folder to fpath before compinit: fpath+=(~/.zfunc)" if shell == "zsh" else ""
        print_text(f"wrote {path}; it works in the next shell{also}")


def _place(shell: str) -> Path:
    """Return where the shell looks for a completion of this user."""
    home = Path(os.environ.get("HOME") or Path.home())
    if shell == "bash":
        return Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "bash-completion/completions/gateway"
    if shell == "fish":
        return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish/completions/gateway.fish"
    return home / ".zfunc/_gateway"
