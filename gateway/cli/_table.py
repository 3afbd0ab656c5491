"""Tables for people: as wide as they are off a terminal, folded to its width on one."""

import shutil
import sys
import unicodedata
from collections.abc import Sequence

_GAP = 2  # spaces between columns
_SHORT_ID = 8  # characters of an id where the table is too wide: a command takes them for the id
_LEAST = 6  # columns to which a cell may be folded


class Id(str):
    """An id in a table: it is shortened where the table is too wide for a terminal."""

    __slots__ = ()


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of a table, without spaces at their ends; `width` bounds them, if that is possible."""
    table = [list(columns), *map(list, rows)]
    if width is not None and _total(_widths(table)) > width:
        table = [[_short(cell) for cell in row] for row in table]
    wide = _widths(table)
    # An id stays in one piece, so that it can be copied.
    foldable = [number for number in range(len(wide)) if not any(isinstance(row[number], Id) for row in rows)]
    while width is not None and _total(wide) > width and max((wide[number] for number in foldable), default=0) > _LEAST:
        widest = max(foldable, key=lambda number: wide[number])
        wide[widest] -= min(_total(wide) - width, wide[widest] - _LEAST, max(1, wide[widest] // 8))
    lines: list[str] = []
    for row in table:
        cells = [_fold(cell, wide[number]) for number, cell in enumerate(row)]
        for line in range(max(map(len, cells))):
            parts = [cell[line] if line < len(cell) else "" for cell in cells]
            padded = (part + " " * (wide[number] + _GAP - _columns(part)) for number, part in enumerate(parts))
            lines.append("".join(padded).rstrip())
    return lines


def terminal_width() -> int | None:
    """Return the width of the terminal, None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _short(cell: str) -> str:
    return cell[:_SHORT_ID] if isinstance(cell, Id) and len(cell) > _SHORT_ID + _LEAST else cell


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(_columns(row[number]) for row in table) for number in range(len(table[0]))]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _columns(text: str) -> int:
    """Return how many columns a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(one) for one in text)


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def _fold(text: str, width: int) -> list[str]:
    """Break a text into lines of so many columns, between words where that is possible."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if _columns(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while _columns(word) > width:
            cut, used = 0, 0
            while cut < len(word) and used + _columns_of(word[cut]) <= width:
                used += _columns_of(word[cut])
                cut += 1
            cut = max(cut, 1)
            lines.append(word[:cut])
            word = word[cut:]  # noqa: PLW2901 - what is left of it
        line = word
    return [*lines, line]
