"""Pagination of lists: the input, and the header that names the next page."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import Field

from gateway.admin.inputs import Input
from gateway.api.rpc.procedure import Answer
from gateway.store.pagination import BEGINNING, MOST, Cursor, Page

#: the cursor of the next page; absent on the last page
NEXT_HEADER = "X-Next-Cursor"

T = TypeVar("T")

_Limit = Annotated[int, Field(ge=1, le=MOST, description="Maximum number of rows, newest first.")]


class Paged(Input):
    """The input of a paginated list."""

    limit: _Limit = MOST
    cursor: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=300,
            description=f"Start of the page: the header {NEXT_HEADER} of the previous page.",
        ),
    ] = None

    @property
    def page(self) -> Page:
        """Raises InvalidInput."""
        return Page(self.limit, BEGINNING if self.cursor is None else Cursor.parse(self.cursor))


class ShortPaged(Paged):
    """The input of a list with large rows: its pages are shorter by default."""

    limit: _Limit = 100


def paged(
    rows: Sequence[T], page: Page, key: Callable[[T], tuple[datetime, str]], to_row: Callable[[T], Any]
) -> Answer:
    """Answer with a page of rows, and the cursor of the next page."""
    return Answer([to_row(one) for one in rows], headers=headers(page.next(rows, key)))


def headers(following: Cursor | None) -> dict[str, str]:
    return {} if following is None else {NEXT_HEADER: str(following)}
