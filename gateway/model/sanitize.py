"""What others have said, made safe for a terminal, a log or a chat: it cannot act there, or pose as another line.

An escape sequence could write to the clipboard or repaint the screen; a letter that turns the direction of writing, or
has no width, makes a name look like another's.
"""

import re

# C0 and C1 with DEL, marks of direction and width, separators of lines, tags, and halves of letters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe_text(text: str) -> str:
    """Return it with every character that could act written out; its lines stay lines."""
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """Return it in one line."""
    return safe_text(text).replace("\n", "\\n").replace("\t", " ")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004
