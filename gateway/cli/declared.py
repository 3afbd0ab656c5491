"""`gateway apply`, `gateway export`, `gateway import` and `gateway schema`."""

import json

import click

from gateway.cli._runner import print_text


@click.command()
def schema() -> None:
    """Print the JSON Schema of declarations, for editors. Works without a gateway."""
    from gateway.admin.declared.schema import json_schema

    print_text(json.dumps(json_schema(), indent=2, ensure_ascii=False))
