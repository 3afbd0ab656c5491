"""Names of an application's containers. No I/O.

NAME                     serves
NAME.new.DEPLOYMENT      has not served yet
NAME.new.CONTAINER       a copy of a container that is gone or will be
NAME.old.CONTAINER       served before and is kept
"""

#: in the name of a container that has not served yet
NEW = ".new."
_SHORT_ID = 12  # characters of an id
_DEPENDENT_MARKS = (".made.", ".ran.", ".lay.")


def new(name: str, deployment_id: str) -> str:
    return f"{name}{NEW}{deployment_id[:_SHORT_ID]}"


def stand_in(name: str, container_id: str) -> str:
    return f"{name}{NEW}{container_id[:_SHORT_ID]}"


def aside(name: str, container_id: str) -> str:
    return f"{name}.old.{container_id[:_SHORT_ID]}"


def boot_network(name: str, deployment_id: str) -> str:
    """Return the name of the network that the new container of a deployment boots on."""
    return f"{name}.boot.{deployment_id[:_SHORT_ID]}"


def temporary(name: str, deployment_id: str) -> str:
    """Return a free name that resolves as the serving one: the engine's names distinguish case, its DNS does not."""
    other = name.swapcase()
    return other if other != name else new(name, deployment_id)


def is_new(name: str, container: str) -> bool:
    return container.startswith(f"{name}{NEW}")


def is_aside(name: str, container: str) -> bool:
    return container.startswith(f"{name}.old.")


def was_renamed(name: str, container: str) -> bool:
    """Return whether the container has no permanent name: a person or an interrupted swap has renamed it."""
    ours = container == name or is_new(name, container) or is_aside(name, container)
    return not ours and not any(container.startswith(f"{name}{word}") for word in _DEPENDENT_MARKS)


def is_given(name: str, container: str) -> bool:
    """Return whether the gateway gives such a name to a container of the application."""
    return not was_renamed(name, container) or container == name.swapcase()


def possible_owners(container: str) -> frozenset[str]:
    """Return the names of applications for which the gateway may have given this name to a container.

    >>> sorted(possible_owners("web.old.0123456789ab")), sorted(possible_owners("web"))
    (['web'], [])
    """
    marks = [mark for mark in (NEW, ".old.", *_DEPENDENT_MARKS) if mark in container]
    return frozenset(found for mark in marks for found in (container.partition(mark)[0], container.rpartition(mark)[0]))
