"""How many deliveries arrived in each hour."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.store.database import Connection

#: deliveries of one verdict that are counted in an hour, at most: a page costs the same however many there are
MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What arrived in the hour that begins at `hour`. Each number is at most MOST_COUNTED."""

    hour: datetime
    #: led to a deployment
    deployed: int
    #: understood, and deployed nothing
    ignored: int
    #: repeated an earlier one
    repeated: int
    #: rows of the inbox for what was refused: equal requests of an hour are one row
    refused: int

    @property
    def at(self) -> int:
        """The beginning of the hour in Unix time."""
        return int(self.hour.timestamp())

    @property
    def pushes(self) -> int:
        return self.deployed + self.ignored

    @property
    def is_cut(self) -> bool:
        """Tell whether more arrived than was counted."""
        return MOST_COUNTED in {self.deployed, self.ignored, self.repeated, self.refused}


async def select_arrivals(connection: Connection, hours: Sequence[datetime]) -> list[Arrivals]:
    """Count what arrived in these hours, given by their beginnings. Each count reads one index alone."""
    rows = await connection.fetch(
        """
        SELECT h.hour, v.verdict::text, counted.number
          FROM unnest($1::timestamptz[]) AS h (hour)
         CROSS JOIN unnest(enum_range(NULL::verdict)) AS v (verdict)
         CROSS JOIN LATERAL (
               SELECT count(*) AS number
                 FROM (
                      SELECT FROM deliveries d
                       WHERE d.verdict = v.verdict AND d.received_at >= h.hour
                         AND d.received_at < h.hour + interval '1 hour'
                       LIMIT $2
                      ) AS first_ones
               ) AS counted
        """,
        hours,
        MOST_COUNTED,
    )
    numbers = {(row["hour"], row["verdict"]): row["number"] for row in rows}
    return [
        Arrivals(
            hour,
            deployed=numbers[hour, "queued"],
            ignored=numbers[hour, "ignored"],
            repeated=numbers[hour, "duplicate"],
            refused=numbers[hour, "rejected"],
        )
        for hour in hours
    ]
