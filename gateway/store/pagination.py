"""Pages of lists, the newest rows first.

A cursor names the last row of a page by its time and its id. So rows that are added or deleted between two pages do
not shift the others: no row is returned twice, and none is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, TypeVar

from gateway.model.errors import InvalidInput

T = TypeVar("T")

#: the maximum number of rows of a page
MOST = 1000


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page: its time and its id, separated by a comma in the text form."""

    moment: datetime
    row_id: str

    def __str__(self) -> str:
        return f"{self.moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ},{self.row_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a cursor. Raises InvalidInput."""
        moment, _, row_id = text.partition(",")
        try:
            found = datetime.fromisoformat(moment.strip())
            whole = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise _unknown() from error
        if not row_id or "\0" in row_id:
            raise _unknown()
        return cls(whole, row_id)


def _unknown() -> InvalidInput:
    return InvalidInput(
        "the cursor is not one of this list: take the header X-Next-Cursor of the page before", field="cursor"
    )


#: before all rows
BEGINNING = Cursor(datetime(9999, 1, 1, tzinfo=UTC), "")


@dataclass(frozen=True, slots=True)
class Page:
    """At most so many rows after the cursor `after`."""

    limit: int = MOST
    after: Cursor = BEGINNING

    @property
    def bounds(self) -> tuple[datetime, str, int]:
        """The parameters of a statement: the time and id that its rows are below, and their number."""
        return self.after.moment, self.after.row_id, self.limit

    def next(self, rows: Sequence[T], key: Callable[[T], tuple[datetime, str]]) -> Cursor | None:
        """Return the cursor of the next page; None if this is the last page."""
        return Cursor(*key(rows[-1])) if len(rows) >= self.limit else None


FIRST = Page()
