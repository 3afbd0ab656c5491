"""An application as the contract shows it: a hundred columns, most of no meaning for an image.

Those are accepted, kept and returned, so that a client that reads back what it wrote finds it.
"""

from collections.abc import Mapping
from typing import Any

from gateway.applications import Application, Desired
from gateway.bases import Base
from gateway.deployments import DOKPLOY_STATUS, Status
from gateway.engine import adoption

_NULL = (
    "previewEnv", "watchPaths", "previewBuildArgs", "previewBuildSecrets", "previewLabels", "previewWildcard",
    "previewCustomCertResolver", "buildArgs", "buildSecrets", "title", "enabled", "subtitle", "icon", "repository",
    "owner", "branch", "gitlabProjectId", "gitlabRepository", "gitlabOwner", "gitlabBranch", "gitlabPathNamespace",
    "giteaRepository", "giteaOwner", "giteaBranch", "bitbucketRepository", "bitbucketRepositorySlug",
    "bitbucketOwner", "bitbucketBranch", "customGitUrl", "customGitBranch", "customGitBuildPath",
    "customGitSSHKeyId", "dockerContextPath", "dockerBuildStage", "dropBuildPath",
    "publishDirectory", "isStaticSpa", "registryId", "rollbackRegistryId",
    "githubId", "gitlabId", "giteaId", "bitbucketId", "buildServerId", "buildRegistryId",
)  # fmt: skip

#: columns kept for the client, with the value a new application has
OTHER: Mapping[str, Any] = {
    **dict.fromkeys(_NULL),
    "previewPort": 3000,
    "previewHttps": False,
    "previewPath": "/",
    "previewCertificateType": "none",
    "previewLimit": 3,
    "isPreviewDeploymentsActive": False,
    "previewRequireCollaboratorPermissions": True,
    "rollbackActive": False,
    "sourceType": "docker",
    "cleanCache": False,
    "buildPath": "/",
    "triggerType": "push",
    "gitlabBuildPath": "/",
    "giteaBuildPath": "/",
    "bitbucketBuildPath": "/",
    "enableSubmodules": False,
    "dockerfile": "Dockerfile",
    "buildType": "nixpacks",
    "railpackVersion": "0.15.4",
    "herokuVersion": "24",
    "createEnvFile": True,
    "environmentId": "default",
    "networkIds": [],
    "detachDokployNetwork": False,
    "refreshToken": None,
}

_NANO = 10**9


def row(application: Application, status: str | None) -> dict[str, Any]:
    """Return the row; a password is never in it."""
    configuration = application.configuration.model_dump(by_alias=True)
    grace = configuration.pop("stopGrace")
    return {
        **OTHER,
        **application.other_columns,
        **configuration,
        "labelsSwarm": configuration["labels"] or None,
        "stopGracePeriodSwarm": grace * _NANO,
        "applicationId": application.application_id,
        "name": application.name,
        "appName": application.app_name,
        "description": application.description,
        "dockerImage": application.docker_image,
        "registryUrl": application.registry_url,
        "username": application.credentials.username if application.credentials else None,
        "password": None,
        "env": application.environment,
        "autoDeploy": application.auto_deploy,
        "serverId": application.server_id,
        "adopted": None if application.base is None else adopted(application.base),
        "applicationStatus": _status(application, status),
        "createdAt": application.created_at.isoformat(),
    }


def adopted(base: Base) -> dict[str, Any]:
    """Return what an application was adopted with; of what may be secret only the name."""
    if base.is_service:
        return {"serviceId": base.object_id, "dockerImage": base.image}
    body = adoption.chosen(base)
    host = body["HostConfig"]
    return {
        "containerId": base.object_id,
        "dockerImage": base.image,
        "variables": [text.partition("=")[0] for text in body.get("Env", ())],
        "labels": sorted(body.get("Labels", {})),
        "networks": sorted(adoption.endpoints(base)),
        "ports": sorted(host.get("PortBindings") or {}),
        "mounts": sorted(adoption.mounted(host)),
    }


def _status(application: Application, status: str | None) -> str:
    if status is None or application.desired is Desired.STOPPED:
        return "idle"
    return DOKPLOY_STATUS[Status(status)]
