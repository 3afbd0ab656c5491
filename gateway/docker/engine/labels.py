"""Labels that the gateway sets on containers and services. No I/O."""

from collections.abc import Mapping

from gateway.model.applications import Application
from gateway.model.reference import Reference

APPLICATION = "gateway.application"

DEPLOYMENT = "gateway.deployment"

ATTEMPT = "gateway.attempt"

DIGEST = "gateway.digest"

SPEC = "gateway.spec"

IMAGE = "gateway.image"

#: on a service: when the registry credentials of its nodes expire
LOGIN_UNTIL = "gateway.login-until"

RESTART = "gateway.restart"

#: on a copy of a container: the id of the original
ORIGIN = "gateway.origin"

#: on a container that was created to boot beside the old one, and on the network it boots on
BOOT = "gateway.boot"

#: the id of the database that stores the application
INSTALLATION = "gateway.installation"

#: in place of a deployment's id: on a service that was created again as it was adopted
ADOPTED_COPY = "adopted"

#: the labels that identify a container of the gateway
GATEWAY_LABELS = frozenset({APPLICATION, DEPLOYMENT, ATTEMPT, DIGEST, SPEC, IMAGE, RESTART, BOOT, INSTALLATION})

# Prefixes of labels by which a container is identified.
_PREFIX = "gateway."

_SIGNIFICANT = (_PREFIX, "com.docker.compose.", "com.docker.swarm.")


def are_significant(labels: Mapping[str, str]) -> bool:
    """Return whether the gateway needs to know who set these labels."""
    return any(name.startswith(_SIGNIFICANT) for name in labels)


def own_labels(labels: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """Return a container's labels without those inherited from its image, which are not trustworthy.

    An image may have been committed from one of the gateway's containers, and then has its labels. A container that the
    gateway created has a deployment label of its own.
    """
    made = labels.get(DEPLOYMENT) != image.get(DEPLOYMENT)
    return {
        name: value
        for name, value in labels.items()
        if image.get(name) != value or (made and name.startswith(_PREFIX) and name != ORIGIN)
    }


def installation_label(application: Application) -> dict[str, str]:
    """Return the label that distinguishes this installation from others on the same engine."""
    return {INSTALLATION: application.installation_id} if application.installation_id else {}


def image_reference(labels: Mapping[str, str]) -> Reference | None:
    """Return the image, by tag and digest, from which the gateway created the container."""
    return Reference.parse(labels[IMAGE]) if IMAGE in labels else None


def labelled_restart_policy(labels: Mapping[str, str]) -> dict[str, object]:
    """Return the restart policy from creation time, which differs from the current one while set aside."""
    name, _, count = labels.get(RESTART, "unless-stopped").partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}
