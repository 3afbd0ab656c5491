"""Projects and their environments, which group applications. It performs no I/O.

Both have variables that the variables of their applications may refer to.
"""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.model.applications import Desired
from gateway.model.observations import State

#: id of the project, and of its environment, for applications created without one
DEFAULT = "default"
#: name of the environment that every project is created with
PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class Project:
    """A project. `variables` is dotenv text, left out of `repr`."""

    project_id: str
    name: str
    description: str | None
    variables: str | None = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Environment:
    """A part of a project. The default one is created with the project and cannot be deleted alone."""

    environment_id: str
    project_id: str
    name: str
    description: str | None
    variables: str | None = field(repr=False)
    is_default: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApplicationSummary:
    """The fields of an application in the list of its environment."""

    application_id: str
    environment_id: str
    name: str
    app_name: str
    description: str | None
    server_id: str | None
    desired: Desired
    #: None before the first deployment
    observed: State | None
    #: of its newest deployment that has an outcome
    status: str | None
    created_at: datetime
