"""What every list command does: it asks for a page of rows, and prints a table or JSON and the next page's cursor."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from gateway.cli._runner import (
    command,
    json_option,
    moment,
    page_of,
    paged,
    print_json,
    print_next_cursor,
    print_table,
)
from gateway.cli._table import Id

if TYPE_CHECKING:
    from gateway.client import Gateway

Row = Mapping[str, Any]
#: the headings of a table, and what of a row stands below each
Columns = Mapping[str, Callable[[Any], object]]


def id_in(field: str) -> Callable[[Row], Id]:
    """Return what reads an id, which a narrow table shortens."""
    return lambda row: Id(row[field])


def time_in(field: str) -> Callable[[Row], object]:
    """Return what reads a time."""
    return lambda row: moment(row[field])


@dataclass(frozen=True, slots=True)
class Listing:
    """What the user wants of a list: which page, and in which form."""

    limit: int
    cursor: str | None
    as_json: bool

    async def fetch(
        self, gateway: "Gateway", procedure: str, given: Mapping[str, object] | None = None
    ) -> tuple[list[Row], str | None]:
        """Return the rows of the page, and the cursor of the next one."""
        return await gateway.page(procedure, {**page_of(self.limit, self.cursor), **(given or {})})

    async def show(
        self,
        gateway: "Gateway",
        procedure: str,
        columns: Columns,
        given: Mapping[str, object] | None = None,
        *,
        applications: Sequence[str] = (),
    ) -> None:
        """Print the page. In a table, names stand in place of the ids of applications in these fields."""
        rows, following = await self.fetch(gateway, procedure, given)
        await show_rows(gateway, rows, columns, as_json=self.as_json, applications=applications)
        print_next_cursor(following)


def list_command(most: int) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make a command with --limit, --cursor and --json of a function that takes a `listing`; `most` rows by default."""

    def make(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @paged(most)
        @json_option
        @command
        @wraps(function)
        async def run(*arguments: Any, limit: int, cursor: str | None, as_json: bool, **options: Any) -> None:
            await function(*arguments, listing=Listing(limit, cursor, as_json), **options)

        return run

    return make


async def show_rows(
    gateway: "Gateway", rows: Sequence[Row], columns: Columns, *, as_json: bool, applications: Sequence[str] = ()
) -> None:
    """Print rows as a table or as JSON, with names of applications as `Listing.show` does."""
    if as_json:
        print_json(rows)
        return
    ids = {row[field] for row in rows for field in applications if row[field] is not None}
    names = await gateway.names(ids)
    print_rows(
        columns, [{**row, **{field: names.get(row[field], row[field]) for field in applications}} for row in rows]
    )


def print_rows(columns: Columns, rows: Sequence[Row]) -> None:
    """Print a table."""
    print_table(list(columns), [[read(row) for read in columns.values()] for row in rows])
