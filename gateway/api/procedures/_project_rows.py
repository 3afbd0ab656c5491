"""Rows of projects, environments and their applications, nested as Dokploy nests them."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from gateway.api.procedures._response import Moment, Response
from gateway.model.api_keys import Caller
from gateway.model.applications import Desired
from gateway.model.deployments import DOKPLOY_STATUS, DokployStatus, Status
from gateway.model.observations import State
from gateway.model.projects import ApplicationSummary, Environment, Project

ApplicationStatus = Literal[DokployStatus, "idle"]
_OTHER_SERVICES = ("compose", "libsql", "mariadb", "mongo", "mysql", "postgres", "redis")


class ProjectRow(Response):
    """A project. It contains environments."""

    project_id: str
    name: str
    description: str | None
    created_at: Moment
    organization_id: str
    env: Annotated[
        str, Field(description="Variables in dotenv format. Applications refer to them as ${{project.NAME}}.")
    ]

    @classmethod
    def from_project(cls, project: Project, caller: Caller, **more: Any) -> Self:
        """Return the row; its variables where the caller may see them."""
        env = project.variables if caller.sees_variables(project.project_id) else None
        return cls.make(project, organization_id="default", env=env or "", **more)


class EnvironmentRow(Response):
    """An environment. It belongs to a project and contains applications."""

    environment_id: str
    name: str
    description: str | None
    created_at: Moment
    env: Annotated[
        str, Field(description="Variables in dotenv format. Applications refer to them as ${{environment.NAME}}.")
    ]
    project_id: str
    is_default: Annotated[
        bool, Field(description="Whether it is the default environment, which is removed only with its project.")
    ]

    @classmethod
    def from_environment(cls, environment: Environment, caller: Caller, **more: Any) -> Self:
        """Return the row; its variables where the caller may see them."""
        env = environment.variables if caller.sees_variables(environment.project_id) else None
        return cls.make(environment, env=env or "", **more)


class MemberRow(Response):
    """An application, in short form."""

    application_id: str
    name: str
    app_name: str
    description: str | None
    created_at: Moment
    environment_id: str
    server_id: str | None
    application_status: ApplicationStatus
    observed: Annotated[State | None, Field(description="Observed state. Null before the first deployment.")]
    icon: None
    server: None

    @classmethod
    def from_summary(cls, summary: ApplicationSummary) -> Self:
        return cls.make(summary, application_status=application_status(summary.desired, summary.status))


class FilledEnvironment(EnvironmentRow):
    """An environment with its applications. Dokploy's other lists are always empty."""

    applications: list[MemberRow]
    compose: list[Any]
    libsql: list[Any]
    mariadb: list[Any]
    mongo: list[Any]
    mysql: list[Any]
    postgres: list[Any]
    redis: list[Any]

    @classmethod
    def with_applications(
        cls, environment: Environment, summaries: Iterable[ApplicationSummary], caller: Caller, **more: Any
    ) -> Self:
        """Return the environment with those of the applications that are in it."""
        inside = [MemberRow.from_summary(one) for one in summaries if one.environment_id == environment.environment_id]
        nothing: dict[str, Any] = {name: [] for name in _OTHER_SERVICES}
        return cls.from_environment(environment, caller, applications=inside, **nothing, **more)


class WholeProject(ProjectRow):
    """A project with its environments."""

    environments: list[FilledEnvironment]
    applications: Annotated[list[MemberRow], Field(description="The applications of all its environments.")]
    project_tags: list[Any]

    @classmethod
    def with_environments(
        cls,
        project: Project,
        environments: Iterable[Environment],
        summaries: Iterable[ApplicationSummary],
        caller: Caller,
    ) -> Self:
        """Return the project with those of the environments that are in it, each with its applications."""
        known = list(summaries)
        inside = [
            FilledEnvironment.with_applications(one, known, caller)
            for one in environments
            if one.project_id == project.project_id
        ]
        # Before there were environments a project had its applications itself, and some programs still look there.
        everything = [one for environment in inside for one in environment.applications]
        return cls.from_project(project, caller, environments=inside, applications=everything, project_tags=[])


def application_status(desired: Desired, status: str | None) -> ApplicationStatus:
    """Return Dokploy's status, from the desired state and the status of the newest deployment."""
    if status is None or desired is Desired.STOPPED:
        return "idle"
    return DOKPLOY_STATUS[Status(status)]
