"""`gateway api`."""

import click

from gateway.cli._runner import command, plain_json_option, print_json

_FORMATS = ("openapi", "markdown", "html")


@click.command()
@click.option("--format", "form", type=click.Choice(_FORMATS), default="openapi", show_default=True)
@click.option(
    "--surface",
    type=click.Choice(["rest", "trpc"]),
    default="rest",
    show_default=True,
    help="Which API --format openapi describes.",
)
@plain_json_option
@command
async def api(form: str, surface: str, *, as_json: bool) -> None:
    """Print the description of the API. Use it to generate clients, or read it."""
    from gateway.api.docs import render
    from gateway.api.procedures.settings import described
    from gateway.api.rpc.procedure import Surface

    document = described(Surface(surface), "")
    if form == "openapi" or as_json:
        print_json(document)
    elif form == "markdown":
        click.echo(render.render_markdown(described(Surface.REST, "")), nl=False)
    else:
        click.echo(render.render_page("api.html", render.template_context(described(Surface.REST, ""))).html, nl=False)
