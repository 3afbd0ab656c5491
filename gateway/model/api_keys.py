"""Permissions, restrictions and expiry of API keys. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Literal, TypeAlias

from gateway.model.errors import Forbidden, InvalidInput

ScopeName: TypeAlias = Literal["read", "deploy", "admin"]

#: how the name of a key ends that `gateway open` made
SIGN_IN_SUFFIX = " (gateway open)"
MAX_LIFETIME = timedelta(days=3650)

_LIFETIME = re.compile(r"(\d{1,8})([smhdwy])", re.ASCII)
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


class Permission(IntEnum):
    """Each includes those before it."""

    #: read only
    READ = 1
    #: deploy, start, stop, roll back and cancel, without changing the configuration
    DEPLOY = 2
    #: everything
    ADMIN = 3

    @property
    def scope_name(self) -> ScopeName:
        return _SCOPE_NAMES[self]


_SCOPE_NAMES: Mapping[Permission, ScopeName] = {
    Permission.READ: "read",
    Permission.DEPLOY: "deploy",
    Permission.ADMIN: "admin",
}


@dataclass(frozen=True, slots=True)
class Grants:
    """The applications and projects of a restricted key, by id. All of them may have been deleted."""

    applications: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()

    def __str__(self) -> str:
        said = [
            f"{noun} {', '.join(sorted(ids))}"
            for noun, ids in (("application", self.applications), ("project", self.projects))
            if ids
        ]
        return " and ".join(said) or "deleted applications or projects"

    def covers(self, *, application_id: str | None, project_id: str | None) -> bool:
        """Tell whether the key may act on an object of this application or project."""
        return application_id in self.applications or project_id in self.projects


@dataclass(frozen=True, slots=True)
class Caller:
    """A valid API key that makes a request. `grants` is None if it is not restricted.

    `local_user` is set for a user of the gateway's host, who needs no key and is not restricted.
    """

    key_id: str
    name: str
    permission: Permission = Permission.ADMIN
    grants: Grants | None = None
    local_user: str | None = None

    @property
    def is_global_admin(self) -> bool:
        """Whether the key may do everything, which makes it root on every host."""
        return self.permission is Permission.ADMIN and self.grants is None

    @property
    def sees_secrets(self) -> bool:
        """Whether the key may read variables and other secrets of applications."""
        return self.permission is Permission.ADMIN

    def sees_variables(self, project_id: str) -> bool:
        """Whether the key may read the variables of a project."""
        return self.sees_secrets and (self.grants is None or project_id in self.grants.projects)

    def require(self, procedure: str, needs: Permission, *, restriction: str | None) -> None:
        """Raises Forbidden if the permission of the key is too low.

        `restriction` is the option for a restricted key that may call the procedure, None if no such key may.
        """
        if self.permission < needs:
            restricted = "" if self.grants is None or restriction is None else f" {restriction}"
            raise Forbidden(
                f"{procedure} needs scope {needs.scope_name}. "
                f"The key {self.name!r} has scope {self.permission.scope_name}. "
                f"Create a key: gateway keys create NAME --scope {needs.scope_name}{restricted}"
            )


def parse_expiry(text: str, now: datetime) -> datetime:
    """Parse an expiry: a duration such as `90d`, or a date such as `2027-01-01` in UTC. Raises InvalidInput.

    >>> parse_expiry("90d", datetime(2026, 12, 1, tzinfo=UTC)).isoformat()
    '2027-03-01T00:00:00+00:00'
    """
    if match := _LIFETIME.fullmatch(text.strip()):
        unit = _UNITS[match[2]]
        life = unit * min(int(match[1]), MAX_LIFETIME // unit + 1)  # more would not fit into a timedelta
    else:
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise InvalidInput(
                f"{text!r} is neither a duration, for example 90d, nor a date, for example 2027-01-01"
            ) from error
        life = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    if not timedelta() < life <= MAX_LIFETIME:
        raise InvalidInput(f"{text!r} is not between now and ten years (3650d) from now")
    return now + life
