"""Tables for people: as wide as they are off a terminal, folded to its width on one."""

import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

_GAP = 2  # spaces between columns
_SHORT_ID = 8  # characters that are left of an id, at least
_LEAST = 6  # columns to which a cell may be folded
_WORD = 12  # columns of a word that is broken only where the table is too wide otherwise
_BREAKS = re.compile(r"(?<=[/:@_.,=-])")  # where a longer word is broken, if that is possible
_PROSE = 32  # columns that a text needs to be read beside others
_INDENT = "    "


class Id(str):
    """An id in a table: it is shortened where the table is too wide for a terminal."""

    __slots__ = ()


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the lines of a table, without spaces at their ends; `width` bounds them, if that is possible.

    Where it is too narrow, ids are shortened, and a long text in the last column stands below its row.
    """
    if width is None or _total(_widths([columns, *rows])) <= width:
        return [line for lines in _lines([columns, *rows], width, ()) for line in lines]
    ids = [number for number in range(len(columns)) if any(isinstance(row[number], Id) for row in rows)]
    shown = _shorten(rows, ids)
    widths = _widths([columns, *shown])
    if widths[-1] > _PROSE and width - _total(widths[:-1]) - _GAP < _PROSE:
        table = _lines([columns[:-1], *(row[:-1] for row in shown)], width, ids)
        texts = [[], *([_INDENT + line for line in _fold(row[-1], width - len(_INDENT))] for row in shown)]
        return [line for lines, text in zip(table, texts, strict=True) for line in [*lines, *text]]
    return [line for lines in _lines([columns, *shown], width, ids) for line in lines]


def _lines(table: Sequence[Sequence[str]], width: int | None, whole: Sequence[int]) -> list[list[str]]:
    """Return the lines of each row; the columns at the numbers `whole` are not folded, so that they can be copied."""
    wide = _widths(table)
    if width is not None and _total(wide) > width:
        foldable = [number for number in range(len(wide)) if number not in whole]
        words = [max(_longest_word(row[number]) for row in table) for number in range(len(wide))]
        for least in (words, [_LEAST] * len(wide)):
            _narrow(wide, foldable, least, width)
    found: list[list[str]] = []
    for row in table:
        cells = [_fold(cell, wide[number]) for number, cell in enumerate(row)]
        lines = []
        for line in range(max(map(len, cells))):
            parts = [cell[line] if line < len(cell) else "" for cell in cells]
            padded = (part + " " * (wide[number] + _GAP - _columns(part)) for number, part in enumerate(parts))
            lines.append("".join(padded).rstrip())
        found.append(lines)
    return found


def _narrow(wide: list[int], foldable: Sequence[int], least: Sequence[int], width: int) -> None:
    """Make the widest columns narrower until the table is `width` wide, but none narrower than its least width."""
    while _total(wide) > width and (left := [number for number in foldable if wide[number] > least[number]]):
        widest = max(left, key=lambda number: wide[number])
        wide[widest] -= min(_total(wide) - width, wide[widest] - least[widest], max(1, wide[widest] // 8))


def _longest_word(cell: str) -> int:
    """Return the columns that the cell needs if no word of it is broken that need not be."""
    words = [part for word in cell.split(" ") for part in ([word] if _columns(word) <= _WORD else _BREAKS.split(word))]
    return min(max(_LEAST, *map(_columns, words)), _WORD)


def wrap(text: str, width: int | None, indent: str = "") -> list[str]:
    """Break a text between words into lines of so many columns, if that is possible; all but the first are indented.

    None leaves its lines as they are. A word is never broken, so that it can be copied.
    """
    if width is None:
        return [text]
    keeps: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    return textwrap.wrap(text, max(width, _PROSE), subsequent_indent=indent, **keeps) or [""]


def terminal_width(*, err: bool = False) -> int | None:
    """Return the width of the terminal, None where standard output, or with `err` standard error, is none."""
    return shutil.get_terminal_size().columns if (sys.stderr if err else sys.stdout).isatty() else None


def _shorten(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> list[list[str]]:
    """Return the rows with the ids in these columns as short as they still differ: a command takes that for the id."""
    shown = [list(row) for row in rows]
    for number in columns:
        ids = {row[number] for row in rows if isinstance(row[number], Id)}
        length = _SHORT_ID
        while len({one[:length] for one in ids}) < len(ids):
            length += 1
        for row in shown:
            if row[number] in ids and len(row[number]) > length + _LEAST:
                row[number] = row[number][:length]
    return shown


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
            ends = (one.end() for one in _BREAKS.finditer(word, 0, cut))
            cut = max((end for end in ends if end > cut // 2), default=max(cut, 1))
            lines.append(word[:cut])
            word = word[cut:]  # noqa: PLW2901 - what is left of it
        line = word
    return [*lines, line]
