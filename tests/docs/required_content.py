"""What the documents must print, since people look for it there: calls, examples, commands and recipes."""

from typing import Any

HUB = "https://index.docker.io/v1/"
ECR = "123456789.dkr.ecr.us-east-1.amazonaws.com"

#: curl lines, by procedure and what they give it
CALLS: list[tuple[str, dict[str, Any]]] = [
    (
        "registry.create",
        {
            "registryName": "Docker Hub Production",
            "registryUrl": HUB,
            "username": "dockerhub-user",
            "password": "dckr_pat_xxxxx",
            "registryType": "cloud",
        },
    ),
    ("application.redeploy", {"applicationId": "app-123", "title": "Update to latest image"}),
    (
        "application.saveDockerProvider",
        {
            "applicationId": "app-123",
            "dockerImage": "mycompany/myapp:v1.0.0",
            "username": "dockerhub-user",
            "password": "dckr_pat_xxxxx",
            "registryUrl": HUB,
        },
    ),
    ("application.update", {"applicationId": "app-123", "dockerImage": "mycompany/myapp:v2.0.0"}),
]

_DOCKER = {"sourceType": "docker"}
_HUB_LOGIN = {"username": "mycompany", "password": "dckr_pat_xxxxx"}

#: what an application may be created or updated with
EXAMPLES: list[dict[str, Any]] = [
    {
        "name": "My Application",
        **_DOCKER,
        "dockerImage": "nginx:alpine",
        "username": None,
        "password": None,
        "registryUrl": None,
    },
    *({**_DOCKER, "dockerImage": image} for image in (
        "nginx:latest", "postgres:16-alpine", "mycompany/myapp:v1.0.0", "nginx:1.25-alpine", "redis:7-alpine",
        "mycompany/private-app:v1.0.0",
    )),
    {**_DOCKER, "dockerImage": "ghcr.io/organization/image:tag", "registryUrl": "ghcr.io"},
    {**_DOCKER, "dockerImage": "quay.io/organization/image:tag", "registryUrl": "quay.io"},
    {**_DOCKER, "dockerImage": "gcr.io/project-id/image:tag", "registryUrl": "gcr.io"},
    {**_DOCKER, "dockerImage": "public.ecr.aws/organization/image:tag", "registryUrl": "public.ecr.aws"},
    {
        **_DOCKER,
        "dockerImage": "mycompany/private-app:v1.0.0",
        "username": "dockerhub-username",
        "password": "dckr_pat_xxxxxxxxxxxxx",
        "registryUrl": HUB,
    },
    {"username": "your-dockerhub-username", "password": "dckr_pat_xxxxxxxxxxxxx"},
    {
        **_DOCKER,
        "dockerImage": "ghcr.io/myorg/private-app:latest",
        "username": "github-username",
        "password": "ghp_xxxxxxxxxxxxx",
        "registryUrl": "ghcr.io",
    },
    {"username": "your-github-username", "password": "ghp_xxxxxxxxxxxxx", "registryUrl": "ghcr.io"},
    {
        **_DOCKER,
        "dockerImage": f"{ECR}/myapp:latest",
        "username": "AWS",
        "password": "<ecr-token>",
        "registryUrl": ECR,
    },
    {"username": "AWS", "password": "eyJwYXlsb2FkIjoiY...", "registryUrl": ECR},
    {
        **_DOCKER,
        "dockerImage": "myregistry.azurecr.io/myapp:latest",
        "username": "myregistry",
        "password": "<acr-password>",
        "registryUrl": "myregistry.azurecr.io",
    },
    {
        **_DOCKER,
        "dockerImage": "registry.example.com:5000/myapp:v1.0.0",
        "username": "registry-user",
        "password": "registry-password",
        "registryUrl": "registry.example.com:5000",
    },
    *({"dockerImage": image} for image in (
        "myapp:1.0.0", "myapp:1.0", "myapp:1", "myapp:latest", "myapp:abc1234", "nginx:alpine",
        "nginx:1.25.3-alpine", "nginx:latest", "node:20-alpine", "python:3.12-alpine",
    )),
    {
        "name": "Production API",
        **_DOCKER,
        "dockerImage": "mycompany/api:v2.1.0",
        **_HUB_LOGIN,
        "registryUrl": HUB,
        "env": "DATABASE_URL=postgresql://...\nREDIS_URL=redis://...",
        "memoryLimit": "2048MB",
        "cpuLimit": "2",
        "replicas": 3,
        "ports": [{"targetPort": 3000, "publishedPort": 3000}],
    },
    {
        "name": "Staging API",
        **_DOCKER,
        "dockerImage": "mycompany/api:staging",
        **_HUB_LOGIN,
        "env": "NODE_ENV=staging\nDEBUG=true",
        "memoryLimit": "512MB",
        "cpuLimit": "0.5",
        "replicas": 1,
    },
    {
        "name": "Redis Cache",
        **_DOCKER,
        "dockerImage": "redis:7.2-alpine",
        "command": "redis-server --appendonly yes",
        "volumes": [{"source": "redis-data", "target": "/data", "type": "volume"}],
        "memoryLimit": "256MB",
    },
]  # fmt: skip

#: what people type beside the API, of which each word stands in a block of a shell
COMMANDS = [
    "aws ecr get-login-password --region us-east-1",
    "az acr update --name myregistry --admin-enabled true",
    "az acr credential show --name myregistry",
    "trivy image mycompany/myapp:latest",
    "docker scout cves mycompany/myapp:latest",
    "export DOCKER_CONTENT_TRUST=1",
    "docker push mycompany/myapp:v1.0.0",
    "docker trust inspect mycompany/myapp:v1.0.0",
    "docker pull nginx:1.25-alpine",
    'docker image prune -a --filter "until=720h"',
]

_REDEPLOY = 'curl -X POST "https://dokploy.example.com/api/trpc/application.redeploy"'
#: what CI runs, line by line, by its service
RECIPES = {
    "GitHub Actions": [
        "docker build -t mycompany/myapp:${{ github.sha }} .",
        "docker tag mycompany/myapp:${{ github.sha }} mycompany/myapp:latest",
        'echo "${{ secrets.DOCKER_PASSWORD }}" | docker login -u "${{ secrets.DOCKER_USERNAME }}" --password-stdin',
        "docker push mycompany/myapp:${{ github.sha }}",
        "docker push mycompany/myapp:latest",
        _REDEPLOY,
        '-H "x-api-key: ${{ secrets.DOKPLOY_API_KEY }}"',
        '"title": "Deploy commit ${{ github.sha }}",',
        '"description": "Deployed from GitHub Actions"',
    ],
    "GitLab CI": [
        "IMAGE_TAG: $CI_REGISTRY_IMAGE:$CI_COMMIT_SHA",
        "docker build -t $IMAGE_TAG .",
        "docker tag $IMAGE_TAG $CI_REGISTRY_IMAGE:latest",
        "docker login -u $CI_REGISTRY_USER -p $CI_REGISTRY_PASSWORD $CI_REGISTRY",
        "docker push $IMAGE_TAG",
        "docker push $CI_REGISTRY_IMAGE:latest",
        _REDEPLOY,
        '-H "x-api-key: $DOKPLOY_API_KEY"',
        '"title": "Deploy \'$CI_COMMIT_SHORT_SHA\'",',
        '"description": "Pipeline: \'$CI_PIPELINE_ID\'"',
    ],
    "Bitbucket Pipelines": [
        "docker build -t mycompany/myapp:$BITBUCKET_COMMIT .",
        "docker tag mycompany/myapp:$BITBUCKET_COMMIT mycompany/myapp:latest",
        "echo $DOCKER_PASSWORD | docker login -u $DOCKER_USERNAME --password-stdin",
        "docker push mycompany/myapp:$BITBUCKET_COMMIT",
        "docker push mycompany/myapp:latest",
        _REDEPLOY,
        '-d \'{"applicationId": "app-123"}\'',
    ],
}
