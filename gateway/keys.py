"""What an API key may do. It performs no I/O."""

from enum import IntEnum


class Permission(IntEnum):
    """Each includes those before it."""

    #: see, and change nothing
    READ = 1
    #: have an application deployed, started, stopped, rolled back, cancelled, as it is configured
    DEPLOY = 2
    #: everything
    ADMIN = 3
