"""What the next deployment would change, compared with what runs. It performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.model.applications import Application
from gateway.model.configuration import Configuration
from gateway.model.mounts import Mount
from gateway.model.reference import Reference

# Fields on how one version replaces another: they change nothing of the container.
_NOT_OF_THE_CONTAINER = {
    "order",
    "runtime",
    "drain",
    "kept",
    "probe",
    "health_deadline",
    "stable_window",
    "watch",
    "heal",
}
_CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Running:
    """What serves: the image, and the application as it was deployed."""

    reference: Reference | None
    application: Application
    spec_hash: str | None
    #: the deployment whose version serves; None for an adopted one
    deployment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A field under its API name. Secrets are left out: of variables only names, of a file only that it changed."""

    field: str
    runs: Any
    wanted: Any


def pending_changes(wanted: Application, running: Running | None) -> list[Change]:
    """Return the changed fields; if nothing ran yet, all fields that are set."""
    found = [
        *_image_changes(wanted, running),
        *_environment_changes(wanted.variables, running.application.variables if running else {}),
    ]
    return found + _configuration_changes(
        wanted.configuration, running.application.configuration if running else Configuration()
    )


def _image_changes(wanted: Application, running: Running | None) -> list[Change]:
    asked, ran_image = wanted.reference, running.reference if running else None
    if asked is None or (ran_image is not None and _same_image(asked, ran_image)):
        return []
    runs = None if ran_image is None else str(ran_image if asked.digest else ran_image.without_digest())
    return [Change("dockerImage", runs, str(asked))]


def _same_image(asked: Reference, running: Reference) -> bool:
    return asked == running if asked.digest else asked == running.without_digest()


def _environment_changes(new: Mapping[str, str], old: Mapping[str, str]) -> list[Change]:
    if new == old:
        return []
    said = (
        *(f"{name} added" for name in new if name not in old),
        *(f"{name} changed" for name in new if name in old and new[name] != old[name]),
        *(f"{name} removed" for name in old if name not in new),
    )
    return [Change("env", sorted(old), ", ".join(said))]


def _configuration_changes(wanted: Configuration, running: Configuration) -> list[Change]:
    found = []
    for name, field in Configuration.model_fields.items():
        if name in _NOT_OF_THE_CONTAINER or field.alias is None:
            continue
        new, old = _dump_field(wanted, name), _dump_field(running, name)
        if name == "mounts":
            held = {file.target: file for file in running.files}
            new = [_dump_mount(mount, held) for mount in wanted.mounts]
        if new != old:
            found.append(Change(field.alias, old, new))
    return found


def _dump_field(configuration: Configuration, name: str) -> Any:
    shown: Any = configuration.model_dump(
        mode="json",
        by_alias=True,
        include={name},
        exclude={"ports": {"__all__": {"port_id"}}, "mounts": {"__all__": {"mount_id", "known_as", "content"}}},
    )
    return next(iter(shown.values()), None)


def _dump_mount(mount: Mount, held: Mapping[str, Mount]) -> dict[str, Any]:
    shown = mount.model_dump(mode="json", by_alias=True, exclude={"mount_id", "known_as", "content"})
    before = held.get(mount.target)
    changed = mount.type == "file" and before is not None and before.content != mount.content
    return shown | {"content": _CHANGED} if changed else shown
