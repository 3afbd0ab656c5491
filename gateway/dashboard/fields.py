"""Read the fields of a form: a few of them, of bounded size, as browsers send a form without files."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from gateway.api.request_body import read_body
from gateway.model.errors import InvalidInput, TooLarge

_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 100
_MOST_BYTES = 1024 * 1024


async def read_fields(request: web.Request, *, most: int = _MOST_BYTES) -> Mapping[str, str]:
    """Return the fields by name; raises TooLarge and InvalidInput.

    Of equal names the last one counts; those of a list, `name[]`, are its lines.

    `most` is in bytes. The fields are counted before they are parsed: millions of empty ones fit into a small body.
    """
    if request.content_type != _FORM:
        raise InvalidInput(f"This is no form of a page: it is sent as {_FORM}.")
    if (request.content_length or 0) > most or len(body := await read_body(request)) > most:
        raise TooLarge(f"The form is larger than {most} bytes. Send it by the API.")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidInput(f"The form is no text, or has more than {_MOST_FIELDS} fields.") from error
    found: dict[str, str] = {}
    for name, text in fields:
        found[name] = f"{found[name]}\n{text}" if name.endswith("[]") and name in found else text
    return found
