"""Labels that the gateway puts on containers and services. It performs no I/O."""

from collections.abc import Mapping

from gateway.model.applications import Application
from gateway.model.reference import Reference

APPLICATION = "gateway.application"

DEPLOYMENT = "gateway.deployment"

ATTEMPT = "gateway.attempt"

DIGEST = "gateway.digest"

SPEC = "gateway.spec"

IMAGE = "gateway.image"

#: of a service whose nodes have a login that ends
LOGIN_UNTIL = "gateway.login-until"

RESTART = "gateway.restart"

#: on the like of a container that we did not make: the id of that
ORIGIN = "gateway.origin"

#: the id of the database that the application is kept in
INSTALLATION = "gateway.installation"

#: by which one of our containers is known, and what it is of
GATEWAY_LABELS = frozenset({APPLICATION, DEPLOYMENT, ATTEMPT, DIGEST, SPEC, IMAGE, RESTART, INSTALLATION})

# What a container is told by; each that the gateway makes for an application is given all of these.
_PREFIX = "gateway."

_SIGNIFICANT = (_PREFIX, "com.docker.compose.", "com.docker.swarm.")


def are_significant(labels: Mapping[str, str]) -> bool:
    """Tell whether it matters who gave a container these labels."""
    return any(name.startswith(_SIGNIFICANT) for name in labels)


def own_labels(labels: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """Return a container's labels without those that it has of its image, whose maker may have written anything.

    An image may have been made of one of our containers, and have its labels. Each of ours is of another deployment.
    """
    made = labels.get(DEPLOYMENT) != image.get(DEPLOYMENT)
    return {
        name: value
        for name, value in labels.items()
        if image.get(name) != value or (made and name.startswith(_PREFIX) and name != ORIGIN)
    }


def installation_label(application: Application) -> dict[str, str]:
    """Return the label that tells what this installation made from what another one did on the same engine."""
    return {INSTALLATION: application.installation_id} if application.installation_id else {}


def image_reference(labels: Mapping[str, str]) -> Reference | None:
    """Return the image by tag and digest that one of our containers was made of."""
    return Reference.parse(labels[IMAGE]) if IMAGE in labels else None


def labelled_restart_policy(labels: Mapping[str, str]) -> dict[str, object]:
    """Return the policy that one of our containers was made with, whatever it has while it is set aside."""
    name, _, count = labels.get(RESTART, "unless-stopped").partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}
