"""How to set up a registry so that it sends its pushes to the gateway: one text for each source, in steps/.

Placeholders: `{url}`, `{path}`, `{secret}`, `{header}` and `{header_value}` of the new webhook, `{host}` of the
registry, and `{set:NAME|WORD}` for a setting of the source; without that setting, WORD or the placeholder of that name.
Any other brace is part of the text.
"""

import re
from collections.abc import Mapping
from importlib.resources import files

from gateway.sources import Source

_DEFAULT_STEPS = "Send to:  {url}\nHeader:   {header}: {header_value}\n"
_DEFAULT_SIGNED_STEPS = "Send to:  {url}\nSecret:   {secret}  (signs each request in {header})\n"
_PLACEHOLDER = re.compile(r"\{(url|path|secret|header|header_value|host|set:([a-z_]+)\|([A-Za-z_]+))\}")


def setup_steps(
    source: Source, *, base: str, path: str, secret: str, host: str | None, settings: Mapping[str, str]
) -> str:
    """Return the text of this source with its placeholders replaced."""
    known = {
        "url": base.rstrip("/") + path,
        "path": path,
        "secret": secret,
        "header": source.header or "",
        "header_value": (source.header_value or "{secret}").replace("{secret}", secret),
        "host": host or "registry.example.com",
    }
    text = files("gateway.cli").joinpath("steps", f"{source.name}.txt")
    plain = _DEFAULT_STEPS if source.header_value else _DEFAULT_SIGNED_STEPS
    template = text.read_text(encoding="utf-8") if text.is_file() else plain

    def word(place: re.Match[str]) -> str:
        return settings.get(place[2]) or known.get(place[3] or place[1], place[3])

    return _PLACEHOLDER.sub(word, template)
