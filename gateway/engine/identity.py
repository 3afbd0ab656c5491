"""What a container is to an application: of the gateway's making, what was adopted, or somebody else's. No I/O."""

from gateway.applications import Application
from gateway.engine import spec
from gateway.engine.containers import Container
from gateway.reference import Reference


def is_original(application: Application, container: Container) -> bool:
    """Tell whether it is what the application was adopted with, or the like of it."""
    base = application.base
    known = (container.container_id, container.labels.get(spec.ORIGIN))
    return base is not None and spec.APPLICATION not in container.labels and base.object_id in known


def is_of(application: Application, container: Container) -> bool:
    return container.labels.get(spec.APPLICATION) == application.application_id or is_original(application, container)


def refusal(application: Application, container: Container) -> str:
    """Return why a container of the application's name is not taken for it, and what to do where that may be wrong."""
    name = container.name
    if application.base is None:
        return f"a container called {name} is there that is not this application's"
    return f"{name} was made anew since it was adopted; take it over as it is now: gateway apps adopt {name}"


def version_of(application: Application, container: Container) -> tuple[str | None, str | None]:
    """Return the digest and the hash of the specification that it was made with."""
    if application.base is not None and is_original(application, container):
        return application.base.reference.digest, spec.spec_hash(application.as_found())
    return container.labels.get(spec.DIGEST), container.labels.get(spec.SPEC)


def reference(application: Application, container: Container) -> Reference | None:
    """Return the image by tag and digest that it was made of."""
    if application.base is not None and is_original(application, container):
        return application.base.reference
    return spec.reference(container.labels)


def restart_policy(application: Application, container: Container) -> dict[str, object]:
    """Return the policy it has when it is not set aside."""
    if application.base is not None and is_original(application, container):
        return dict(application.base.found["HostConfig"]["RestartPolicy"])
    return spec.restart_policy(container.labels)
