"""Decides whether a container or service belongs to an application. No I/O."""

from collections.abc import Iterable, Mapping

from gateway.docker.container import names
from gateway.docker.container import spec as container_spec
from gateway.docker.engine.containers import Container, parse_time
from gateway.docker.engine.labels import (
    APPLICATION,
    ATTEMPT,
    DEPLOYMENT,
    DIGEST,
    INSTALLATION,
    ORIGIN,
    SPEC,
    image_reference,
    labelled_restart_policy,
)
from gateway.model.applications import Application
from gateway.model.reference import Reference


def is_original(application: Application, container: Container) -> bool:
    """Return whether this is the container that the application adopted, or a copy of it."""
    adopted = application.adopted_spec
    known = (container.container_id, container.labels.get(ORIGIN))
    return adopted is not None and APPLICATION not in container.labels and adopted.object_id in known


def labels_belong_to(application: Application, labels: Mapping[str, str]) -> bool:
    """Return whether a service, or a container without its image's labels, was created for the application.

    Another gateway, with its own database, can have an application with the same id. A container without an
    installation label predates that label; the database knows the deployments of that time.
    """
    if labels.get(APPLICATION) != application.application_id:
        return False
    if (installation := labels.get(INSTALLATION)) is not None:
        return installation == application.installation_id
    return not application.installation_id or labels.get(DEPLOYMENT) in application.unlabelled_deployments


def belongs_to(application: Application, container: Container) -> bool:
    return labels_belong_to(application, container.labels) or is_original(application, container)


def is_made(application: Application, container: Container, alike: Iterable[Container]) -> bool:
    """Return whether the gateway made or adopted a container that belongs to the application by its labels.

    Anybody can copy labels. So a container counts as made by the gateway only if it has a name that the gateway gives,
    or if its id was recorded. If its deployment has no recorded id, the eldest container with the same labels counts,
    unless one of these has such a name. `alike` are all containers with the application's labels.
    """
    adopted, recorded = application.adopted_spec, application.recorded_containers
    if names.is_given(application.app_name, container.name) or container.container_id in recorded.values():
        return True
    if adopted is not None and container.container_id == adopted.object_id:
        return True
    deployment = container.labels.get(DEPLOYMENT, "")
    # The id of a copy that the gateway made is not recorded.
    unrecorded = deployment in recorded and (recorded[deployment] is None or ORIGIN in container.labels)
    if not unrecorded and not is_original(application, container):
        return False
    same = [one for one in alike if _made_as(one) == _made_as(container)]
    eldest = min(same, key=lambda one: parse_time(one.created), default=container)
    named = any(names.is_given(application.app_name, one.name) for one in same)
    return not named and eldest.container_id == container.container_id


def _made_as(container: Container) -> tuple[str | None, ...]:
    """Return the values of the labels that are unique to each container of the gateway."""
    return tuple(container.labels.get(label) for label in (DEPLOYMENT, ATTEMPT, ORIGIN))


def describe_owner(application: Application, what: str, name: str, labels: Mapping[str, str]) -> str:
    """Return who owns the container or service that has the application's name, and what to do."""
    owner = labels.get(APPLICATION)
    if owner is None:
        return f"a {what} named {name} exists that does not belong to this application"
    if owner != application.application_id and labels.get(INSTALLATION) == application.installation_id:
        return f"a {what} named {name} exists that belongs to the application {owner}"
    whose = f"installation {made_by}" if (made_by := labels.get(INSTALLATION)) else "deployment unknown here"
    return (
        f"a {what} named {name} exists that another gateway, with a database of its own, made for its application "
        f"{owner} ({whose}): remove it there, or give this application another appName"
    )


def describe_conflict(application: Application, container: Container) -> str:
    """Return why the container with the application's name does not belong to it, and what to do."""
    name = container.name
    if application.adopted_spec is None or APPLICATION in container.labels:
        return describe_owner(application, "container", name, container.labels)
    return f"{name} was recreated since it was adopted; adopt it again as it is now: gateway apps adopt {name}"


def labelled_version(application: Application, container: Container) -> tuple[str | None, str | None]:
    """Return the digest and the spec hash that the container was created with, as its labels say."""
    if application.adopted_spec is not None and is_original(application, container):
        return application.adopted_spec.reference.digest, container_spec.spec_hash(application.as_adopted())
    return container.labels.get(DIGEST), container.labels.get(SPEC)


def image_reference_of(application: Application, container: Container) -> Reference | None:
    """Return the image by tag and digest that the container was created from."""
    if application.adopted_spec is not None and is_original(application, container):
        return application.adopted_spec.reference
    return image_reference(container.labels)


def restart_policy_of(application: Application, container: Container) -> dict[str, object]:
    """Return the restart policy that the container has when it serves."""
    if application.adopted_spec is not None and is_original(application, container):
        return dict(application.adopted_spec.found["HostConfig"]["RestartPolicy"])
    return labelled_restart_policy(container.labels)
