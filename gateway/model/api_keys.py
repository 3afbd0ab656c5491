"""What an API key may do, on what and until when. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Literal, TypeAlias

from gateway.model.errors import Forbidden, InvalidInput

ScopeName: TypeAlias = Literal["read", "deploy", "admin"]

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

    #: see, and change nothing
    READ = 1
    #: have an application deployed, started, stopped, rolled back, cancelled, as it is configured
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
    """What a restricted key is for, by id; it may be nothing any more."""

    applications: frozenset[str] = frozenset()
    projects: frozenset[str] = frozenset()

    def __str__(self) -> str:
        said = [
            f"{noun} {', '.join(sorted(ids))}"
            for noun, ids in (("application", self.applications), ("project", self.projects))
            if ids
        ]
        return " and ".join(said) or "nothing that is still there"

    def covers(self, *, application_id: str | None, project_id: str | None) -> bool:
        """Tell whether something that belongs there is what the key is for."""
        return application_id in self.applications or project_id in self.projects


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key that is valid. `grants` is None where it is for everything."""

    key_id: str
    name: str
    permission: Permission = Permission.ADMIN
    grants: Grants | None = None

    @property
    def is_global_admin(self) -> bool:
        """Who may do everything to everything, and so is root on each host."""
        return self.permission is Permission.ADMIN and self.grants is None

    @property
    def sees_secrets(self) -> bool:
        """What an application is given to know, only those may see who may change it."""
        return self.permission is Permission.ADMIN

    def sees_variables(self, project_id: str) -> bool:
        """Tell the same of what a whole project is given to know."""
        return self.sees_secrets and (self.grants is None or project_id in self.grants.projects)

    def require(self, procedure: str, needs: Permission) -> None:
        """Raises Forbidden where the key may do less than is needed."""
        if self.permission < needs:
            raise Forbidden(
                f"{procedure} needs a key of scope {needs.scope_name}, "
                f"and {self.name!r} is of scope {self.permission.scope_name}; "
                f"make one: gateway keys create NAME --scope {needs.scope_name}"
            )


def parse_expiry(text: str, now: datetime) -> datetime:
    """Return when: after a time, as in `90d`, or at one, as in `2027-01-01`, which is UTC; raises InvalidInput.

    >>> parse_expiry("90d", datetime(2026, 12, 1, tzinfo=UTC)).isoformat()
    '2027-03-01T00:00:00+00:00'
    """
    if match := _LIFETIME.fullmatch(text.strip()):
        life = int(match[1]) * _UNITS[match[2]]
    else:
        try:
            at = datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise InvalidInput(
                f"{text!r} is neither a time to come, as in 90d, nor a date, as in 2027-01-01"
            ) from error
        life = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    if not timedelta() < life <= MAX_LIFETIME:
        raise InvalidInput(f"{text!r} is not between now and ten years from now")
    return now + life
