"""Projects, their environments and the applications in them, one within the other as the contract shows them."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from gateway.api.rpc.procedure import Moment
from gateway.model.api_keys import Caller
from gateway.model.applications import Desired
from gateway.model.deployments import DOKPLOY_STATUS, DokployStatus, Status
from gateway.model.observations import State
from gateway.model.projects import ApplicationSummary, Environment, Project

ApplicationStatus = Literal[DokployStatus, "idle"]


class ProjectRow(TypedDict):
    """What environments belong to."""

    projectId: str
    name: str
    description: str | None
    createdAt: Moment
    organizationId: str
    env: Annotated[str, Field(description="Variables that applications may name as ${{project.NAME}}, as dotenv.")]


class EnvironmentRow(TypedDict):
    """What applications belong to."""

    environmentId: str
    name: str
    description: str | None
    createdAt: Moment
    env: Annotated[str, Field(description="Variables that applications may name as ${{environment.NAME}}, as dotenv.")]
    projectId: str
    isDefault: Annotated[bool, Field(description="Made with its project, and gone with it.")]


class MemberRow(TypedDict):
    """An application, in short."""

    applicationId: str
    name: str
    appName: str
    description: str | None
    createdAt: Moment
    environmentId: str
    serverId: str | None
    applicationStatus: ApplicationStatus
    observed: Annotated[State | None, Field(description="What it is seen to do; null before it was deployed.")]
    icon: None
    server: None


class FilledEnvironment(EnvironmentRow):
    """An environment with its applications; what else the contract has in one is never in it."""

    applications: list[MemberRow]
    compose: list[Any]
    libsql: list[Any]
    mariadb: list[Any]
    mongo: list[Any]
    mysql: list[Any]
    postgres: list[Any]
    redis: list[Any]


class WholeProject(ProjectRow):
    """A project with its environments."""

    environments: list[FilledEnvironment]
    applications: Annotated[list[MemberRow], Field(description="Those of all its environments.")]
    projectTags: list[Any]


def project_row(project: Project, caller: Caller) -> ProjectRow:
    """Return it, its variables where the caller may see them."""
    return {
        "projectId": project.project_id,
        "name": project.name,
        "description": project.description,
        "createdAt": project.created_at.isoformat(),
        "organizationId": "default",
        "env": (project.variables or "") if caller.sees_variables(project.project_id) else "",
    }


def environment_row(environment: Environment, caller: Caller) -> EnvironmentRow:
    """Return it, its variables where the caller may see them."""
    return {
        "environmentId": environment.environment_id,
        "name": environment.name,
        "description": environment.description,
        "createdAt": environment.created_at.isoformat(),
        "env": (environment.variables or "") if caller.sees_variables(environment.project_id) else "",
        "projectId": environment.project_id,
        "isDefault": environment.is_default,
    }


def _summary_row(summary: ApplicationSummary) -> MemberRow:
    return {
        "applicationId": summary.application_id,
        "name": summary.name,
        "appName": summary.app_name,
        "description": summary.description,
        "createdAt": summary.created_at.isoformat(),
        "environmentId": summary.environment_id,
        "serverId": summary.server_id,
        "applicationStatus": application_status(summary.desired, summary.status),
        "observed": summary.observed,
        "icon": None,
        "server": None,
    }


def application_status(desired: Desired, status: str | None) -> ApplicationStatus:
    """Return one of the contract's four, made of what is wanted and the newest deployment's."""
    if status is None or desired is Desired.STOPPED:
        return "idle"
    return DOKPLOY_STATUS[Status(status)]


def filled_row(environment: Environment, summaries: Iterable[ApplicationSummary], caller: Caller) -> FilledEnvironment:
    """Return the environment with those of the applications that are in it."""
    inside = [_summary_row(one) for one in summaries if one.environment_id == environment.environment_id]
    return {
        **environment_row(environment, caller),
        "applications": inside,
        "compose": [],
        "libsql": [],
        "mariadb": [],
        "mongo": [],
        "mysql": [],
        "postgres": [],
        "redis": [],
    }


def whole_row(
    project: Project, environments: Iterable[Environment], summaries: Iterable[ApplicationSummary], caller: Caller
) -> WholeProject:
    """Return the project with those of the environments that are in it, each with its applications."""
    known = list(summaries)
    inside = [filled_row(one, known, caller) for one in environments if one.project_id == project.project_id]
    # Before there were environments a project had its applications itself, and some programs still look there.
    everything = [one for environment in inside for one in environment["applications"]]
    return {**project_row(project, caller), "environments": inside, "applications": everything, "projectTags": []}
