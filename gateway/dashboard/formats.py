"""How values are written on the pages. It performs no I/O."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

from gateway.model.errors import InvalidInput
from gateway.model.reference import Reference
from gateway.model.setting_text import describe

#: stands where there is no value
NOTHING = "\N{EN DASH}"

AGO, LASTING, NOW = "%(length)s ago", "for %(length)s", "now"

_SHORT = 12  # characters of a digest
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def parse_moment(moment: datetime | str) -> datetime:
    """Return a time as it is, or as a procedure has answered it."""
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment


def at(moment: datetime | str | None) -> Markup:
    """Return a time element: a script shows it in local time, and in full when it is pointed at."""
    if moment is None:
        return escape(NOTHING)
    moment = parse_moment(moment).astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    )


def ago(moment: datetime | str | None, *, translate: Callable[[str], str]) -> Markup:
    """Return a time element that says how long ago it was."""
    return _relative(moment, "ago", translate(AGO), translate(NOW))


def lasting(moment: datetime | str | None, *, translate: Callable[[str], str]) -> Markup:
    """Return a time element that says for how long something has been so since then."""
    return _relative(moment, "lasting", translate(LASTING), translate(NOW))


def _relative(moment: datetime | str | None, kind: str, text: str, now: str) -> Markup:
    if moment is None:
        return escape(NOTHING)
    moment = parse_moment(moment).astimezone(UTC)
    passed = datetime.now(UTC) - moment
    return Markup('<time datetime="{}" class="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"),
        kind,
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        text % {"length": _largest(passed)} if passed >= timedelta(seconds=1) else now,
    )


def _largest(length: timedelta) -> str:
    total = max(0, int(length.total_seconds()))
    for size_of, unit in _UNITS:
        if total >= size_of:
            return f"{total // size_of} {unit}"
    return "0 s"


def seconds(milliseconds: float | None) -> str:
    """Return a duration; … while it goes on."""
    if milliseconds is None:
        return "…"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"  # noqa: PLR2004


def setting(value: object) -> str:
    """Return the value of a setting as people read it."""
    return NOTHING if value is None or value in ("", [], {}) else describe(value)


def short_digest(digest: str | None) -> str:
    return "" if not digest else digest.removeprefix("sha256:")[:_SHORT]


def image_name(image: str | None) -> str:
    """Return an image's name as people write it: without Docker Hub's domain, and without a digest."""
    if not image:
        return NOTHING
    try:
        found = Reference.parse(image)
    except InvalidInput:
        return image
    name = str(found.repository).removeprefix("docker.io/library/").removeprefix("docker.io/")
    return f"{name}:{found.tag}" if found.tag else f"{name}@{short_digest(found.digest)}"
