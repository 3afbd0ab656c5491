"""What the containers of an application are called, beside the one that serves. It performs no I/O.

NAME                     serves
NAME.new.DEPLOYMENT      has not served yet
NAME.new.CONTAINER       stands in for a container that is gone, or will be
NAME.old.CONTAINER       served, and is kept
"""

_SHORT_ID = 12  # characters of an id
_DEPENDENT_MARKS = (".made.", ".ran.", ".lay.")


def new(name: str, deployment_id: str) -> str:
    return f"{name}.new.{deployment_id[:_SHORT_ID]}"


def stand_in(name: str, container_id: str) -> str:
    return f"{name}.new.{container_id[:_SHORT_ID]}"


def aside(name: str, container_id: str) -> str:
    return f"{name}.old.{container_id[:_SHORT_ID]}"


def temporary(name: str, deployment_id: str) -> str:
    """Return a name beside the serving one: names that differ in case are two to the engine, one to its DNS."""
    other = name.swapcase()
    return other if other != name else new(name, deployment_id)


def is_new(name: str, container: str) -> bool:
    return container.startswith(f"{name}.new.")


def is_aside(name: str, container: str) -> bool:
    return container.startswith(f"{name}.old.")


def was_renamed(name: str, container: str) -> bool:
    """Tell whether somebody gave it another name: none that the gateway gives to one of the application's."""
    ours = container == name or is_new(name, container) or is_aside(name, container)
    return not ours and not any(container.startswith(f"{name}{word}") for word in _DEPENDENT_MARKS)
