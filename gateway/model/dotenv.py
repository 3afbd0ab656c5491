r"""Parses variables like npm's dotenv, which Dokploy uses: https://github.com/motdotla/dotenv.

    NAME=value        up to a # or the end of the line, without surrounding blanks
    NAME: value       the same
    export NAME=value
    NAME="a value"    may span several lines; \n and \r are expanded, \" is kept as it is
    NAME='a value'    kept as it is; ` quotes too
    # a comment

Anything else is an error that names the line; npm's dotenv ignores it. The time is linear in the length of the text.
"""

import re

from gateway.model.errors import InvalidInput

_NAME = re.compile(r"""(?:export[ \t]+)?(?:([^\s=#'"`\\]*[^\s=#'"`\\:])[ \t]*=|([\w.-]+):(?=\s|\Z))""")
_BLANK = re.compile(r"(?:\s|#[^\n]*)*+")
_REST = re.compile(r"[^\S\n]*+(?:#[^\n]*)?+(?=\n|\Z)")
_PLAIN = re.compile(r"[^#\n]*+")
_QUOTED = re.compile(r"""(['"`])(.*)\1""", re.DOTALL)


def parse_variables(text: str) -> dict[str, str]:
    """Return the variables by name; the last one of a name wins. Raises InvalidInput naming the line."""
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    variables: dict[str, str] = {}
    place = _end_of(_BLANK.match(text))
    while place < len(text):
        named = _NAME.match(text, place)
        if named is None:
            raise InvalidInput(f"line {text.count(chr(10), 0, place) + 1} is not NAME=value", field="env")
        value, place = _value(text, named.end())
        variables[named[1] or named[2]] = value
        place = _end_of(_BLANK.match(text, place))
    return variables


def _value(text: str, place: int) -> tuple[str, int]:
    """Return the value that begins at `place`, and the position after it."""
    while text[place : place + 1] in {" ", "\t"}:
        place += 1
    quote = text[place : place + 1]
    if quote in {"'", '"', "`"} and (closing := _closing_quote(text, quote, place + 1)) is not None:
        return _expand_escapes(text[place + 1 : closing], quote), closing + 1
    plain = _PLAIN.match(text, place)
    value = plain[0].strip() if plain else ""
    whole = _QUOTED.fullmatch(value)
    return _expand_escapes(whole[2] if whole else value, quote), _end_of(plain)


def _expand_escapes(value: str, quote: str) -> str:
    return value.replace("\\n", "\n").replace("\\r", "\r") if quote == '"' else value


def _closing_quote(text: str, quote: str, begin: int) -> int | None:
    r"""Return the position of the closing quote: the first one without a \ before it, else the last one.

    Only a comment may follow it on its line.
    """
    escaped = []
    place = text.find(quote, begin)
    while place >= 0:
        if text[place - 1] != "\\" or place == begin:
            if _REST.match(text, place + 1):
                return place
            break
        escaped.append(place)
        place = text.find(quote, place + 1)
    return next((one for one in reversed(escaped) if _REST.match(text, one + 1)), None)


def _end_of(found: re.Match[str] | None) -> int:
    return found.end() if found else 0
