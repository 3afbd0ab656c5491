"""Escapes foreign text for a terminal, a log or a chat, so that it has no effect there and cannot imitate other lines.

An escape sequence could write to the clipboard or repaint the screen. A character that reverses the direction of
writing, or has no width, can make one name look like another.
"""

import re

# C0, C1 and DEL; marks of direction and width; line separators; tags; surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe_text(text: str) -> str:
    """Escape every unsafe character; keep line breaks."""
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """Escape every unsafe character and every line break."""
    return safe_text(text).replace("\n", "\\n").replace("\t", " ")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004
