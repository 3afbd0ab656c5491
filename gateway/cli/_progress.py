"""What a command waits for, on standard error: one line on a terminal, which is replaced; elsewhere a line a change."""

import shutil
import sys

from gateway.cli._table import terminal_width, wrap
from gateway.model.sanitize import safe_line

_ERASE = "\r\x1b[K"
_INDENT = "    "


class Progress:
    """Shows the latest state; `line` leaves a line above it. Silent with `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self._terminal, self._shown = quiet, sys.stderr.isatty(), ""

    def state(self, text: str) -> None:
        text = safe_line(text)
        if self.quiet or text == self._shown:
            return
        self._shown = text
        if self._terminal:
            self._write(_ERASE + text[: shutil.get_terminal_size().columns - 1])
        else:
            self._write(text + "\n")

    def line(self, text: str) -> None:
        if self.quiet:
            return
        lines = wrap(safe_line(text), terminal_width(err=True), _INDENT)
        self._write((_ERASE if self._terminal else "") + "".join(f"{line}\n" for line in lines))
        if self._terminal and self._shown:
            self._write(self._shown[: shutil.get_terminal_size().columns - 1])

    def close(self) -> None:
        if self._terminal and self._shown:
            self._write(_ERASE)
        self._shown = ""

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
