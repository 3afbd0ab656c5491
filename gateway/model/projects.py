"""What applications belong to: projects, and in each of them environments. It performs no I/O.

Both have variables, which the applications in them may name in their own.
"""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.model.applications import Desired
from gateway.model.observations import State

#: the project of applications that are made without one, and its environment
DEFAULT = "default"
#: what the environment is called that each project is made with
PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class Project:
    """`variables` is dotenv text in clear, kept out of `repr`."""

    project_id: str
    name: str
    description: str | None
    variables: str | None = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Environment:
    """A part of a project; the one it was made with is its default and stays as long as it does."""

    environment_id: str
    project_id: str
    name: str
    description: str | None
    variables: str | None = field(repr=False)
    is_default: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApplicationSummary:
    """An application, as far as a list of those in an environment tells of it."""

    application_id: str
    environment_id: str
    name: str
    app_name: str
    description: str | None
    server_id: str | None
    desired: Desired
    #: what it is seen to do; None before it was deployed
    observed: State | None
    #: of its newest deployment that says something of it
    status: str | None
    created_at: datetime
