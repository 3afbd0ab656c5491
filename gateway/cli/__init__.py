"""The command line: one module for each noun. Every command accepts --json and works while the server runs.

Commands import heavy modules inside their functions, so that `gateway --help` stays fast.
"""

import click

from gateway.cli import (
    adoption,
    api,
    approvals,
    apps,
    audit,
    deliveries,
    demo,
    deploy,
    deployments,
    gates,
    groups,
    keys,
    open_dashboard,
    promotions,
    registries,
    releases,
    serve,
    servers,
    subscriptions,
    webhooks,
)
from gateway.cli._runner import Root

__all__ = ["main"]


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Deploy Docker images the moment they are pushed."""


main.add_command(serve.serve)
main.add_command(serve.migrate)
main.add_command(keys.keys)
main.add_command(open_dashboard.open_dashboard)
main.add_command(webhooks.webhooks)
main.add_command(deliveries.deliveries)
main.add_command(apps.apps)
apps.apps.add_command(adoption.adopt)
main.add_command(subscriptions.subscriptions)
main.add_command(deploy.deploy)
main.add_command(deploy.rollback)
main.add_command(deployments.deployments)
main.add_command(approvals.approvals)
main.add_command(promotions.promotions)
main.add_command(groups.groups)
main.add_command(releases.release)
main.add_command(releases.releases)
main.add_command(gates.gates)
main.add_command(servers.servers)
main.add_command(api.api)
main.add_command(registries.registries)
main.add_command(audit.audit)
main.add_command(demo.demo)
