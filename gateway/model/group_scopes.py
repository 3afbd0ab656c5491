"""Which groups of an OpenID Connect issuer may do what. It performs no I/O."""

from collections.abc import Sequence

from gateway.model.api_keys import Permission


def parse_groups(text: str) -> list[tuple[Permission, str]]:
    """Parse `admin=platform, deploy=developers, read=*`. Raises ValueError."""
    found: list[tuple[Permission, str]] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        scope, equals, group = part.partition("=")
        if not equals or not group.strip() or scope.strip().upper() not in Permission.__members__:
            raise ValueError(f"{part!r} is not SCOPE=GROUP, with a scope of read, deploy or admin")
        found.append((Permission[scope.strip().upper()], group.strip()))
    return found


def permission_of(groups: Sequence[str], mapping: Sequence[tuple[Permission, str]]) -> Permission | None:
    """Return the highest permission that the groups give, None where they give none. `*` is everybody."""
    return max((permission for permission, group in mapping if group == "*" or group in groups), default=None)
