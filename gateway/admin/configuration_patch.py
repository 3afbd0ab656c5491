"""Merge the settings of a request into an application's configuration. Errors name fields as they were sent."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

from gateway.model import configuration_rules
from gateway.model.configuration import MAX_STOP_GRACE, Configuration
from gateway.model.errors import InvalidInput

_NANO = 10**9
# Dokploy's names, and ours, of settings that have both.
OTHER_NAMES = {"labelsSwarm": "labels", "stopGracePeriodSwarm": "stopGrace", "volumes": "mounts"}
_NAMES = {field.alias for field in Configuration.model_fields.values()} | set(OTHER_NAMES)
# Other names of the fields of a mount.
_SYNONYMS = {"target": ("mountPath",), "source": ("volumeName", "hostPath", "filePath")}


def is_setting(name: str) -> bool:
    """Whether the configuration has a setting of this name."""
    return name in _NAMES


def collect_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a request; raises InvalidInput when two names of one setting have different values."""
    sent = {name: given[name] for name in given if name in _NAMES}
    for name, ours in OTHER_NAMES.items():
        if name in sent and ours in sent and name != "labelsSwarm" and _our_value(name, sent[name]) != sent[ours]:
            raise InvalidInput(f"{name} and {ours} are the same thing, and differ", field=name)
    return sent


def setting_names(settings: Mapping[str, Any]) -> set[str]:
    """Return our names of the settings."""
    return {OTHER_NAMES.get(name, name) for name in settings}


def merge_settings(current: Configuration, settings: Mapping[str, Any]) -> Configuration:
    """Return the configuration with these settings. Null restores the default, which is mostly the image's.

    Raises InvalidInput or ValidationError, which name fields as they were sent.
    """
    changed = {OTHER_NAMES.get(name, name): _our_value(name, value) for name, value in settings.items()}
    whole = {**current.model_dump(by_alias=True), **changed}
    with _errors_as_sent(settings):
        wanted = Configuration.model_validate({name: value for name, value in whole.items() if value is not None})
        configuration_rules.validate(wanted)
    return wanted.with_ids(current)


def _our_value(name: str, value: Any) -> Any:
    if name != "stopGracePeriodSwarm" or value is None:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STOP_GRACE * _NANO:
        return value // _NANO
    raise InvalidInput(f"nanoseconds are needed, up to {MAX_STOP_GRACE} s", field="stopGracePeriodSwarm")


@contextmanager
def _errors_as_sent(settings: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            error.title,
            [
                InitErrorDetails(
                    type=one["type"],
                    loc=tuple(_path(settings, one["loc"])),
                    input=one["input"],
                    ctx=one.get("ctx", {}),
                )
                for one in error.errors()
            ],
            hide_input=True,
        ) from error
    except InvalidInput as error:
        raise InvalidInput(str(error), field=".".join(map(str, _path(settings, error.path or [""])))) from error


def _path(settings: Mapping[str, Any], path: Sequence[int | str]) -> list[int | str]:
    """Return the path of a field with the names that were sent; a field that was not sent keeps our name."""
    first, *rest = path
    sent = next((name for name in settings if OTHER_NAMES.get(name, name) == first), first)
    found, inside = [sent], settings.get(str(sent))
    for part in rest:
        name = part
        if isinstance(inside, Mapping) and part not in inside:
            name = next((other for other in _SYNONYMS.get(str(part), ()) if inside.get(other) is not None), part)
        found.append(name)
        inside = _inside(inside, name)
    return found


def _inside(value: Any, part: int | str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None
