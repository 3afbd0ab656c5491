"""The command line: one module for each noun. Every command accepts --json.

A command's module is loaded when the command is used, and it imports heavy modules inside its functions, so that each
command starts fast.
"""

from collections.abc import Mapping
from importlib import import_module

import click

from gateway.cli._runner import Root
from gateway.version import VERSION

__all__ = ["main"]

#: the module and the name of each command
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("serve", "serve"),
    "status": ("status", "status"),
    "login": ("contexts", "login"),
    "logout": ("contexts", "logout"),
    "contexts": ("contexts", "contexts"),
    "projects": ("projects", "projects"),
    "doctor": ("doctor", "doctor"),
    "completion": ("manual", "completion"),
    "man": ("manual", "man"),
    "migrate": ("serve", "migrate"),
    "backup": ("backup", "backup"),
    "restore": ("backup", "restore"),
    "keys": ("keys", "keys"),
    "open": ("open_dashboard", "open_dashboard"),
    "webhooks": ("webhooks", "webhooks"),
    "deliveries": ("deliveries", "deliveries"),
    "apps": ("apps", "apps"),
    "subscriptions": ("subscriptions", "subscriptions"),
    "deploy": ("deploy", "deploy"),
    "rollback": ("deploy", "rollback"),
    "deployments": ("deployments", "deployments"),
    "approvals": ("approvals", "approvals"),
    "promotions": ("promotions", "promotions"),
    "groups": ("groups", "groups"),
    "release": ("releases", "release"),
    "releases": ("releases", "releases"),
    "gates": ("gates", "gates"),
    "alerts": ("alerts", "alerts"),
    "servers": ("servers", "servers"),
    "api": ("api", "api"),
    "registries": ("registries", "registries"),
    "audit": ("audit", "audit"),
    "apply": ("declared", "apply"),
    "export": ("declared", "export"),
    "import": ("declared", "import_"),
    "schema": ("declared", "schema"),
    "demo": ("demo", "demo"),
}


class _Commands(Root):
    """Loads a command when it is used."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[name]
        command: click.Command = getattr(import_module(f"gateway.cli.{module}"), attribute)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, "-V", "--version", message="gateway %(version)s")
def main() -> None:
    """Deploy Docker images the moment they are pushed."""
