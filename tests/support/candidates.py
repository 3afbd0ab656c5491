"""What a gate is asked about in tests: a deployment of an application, and the digest that it brings."""

from datetime import UTC, datetime

from gateway.model.applications import Application, Desired
from gateway.model.configuration import Configuration
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.gates import Candidate
from gateway.model.reference import Digest, Reference
from gateway.model.registries import ANONYMOUS


def a_candidate(
    digest: Digest,
    *,
    application_id: str = "app",
    deployment_id: str = "d1",
    image: str = "docker.io/acme/web:v1",
    spec_hash: str = "s1",
    serving: Digest | None = None,
    asked_by: str | None = None,
    asked_key: str | None = None,
) -> Candidate:
    """Return a candidate that a push brings, or a person who asked."""
    reference = Reference.parse(image)
    at = datetime(2026, 12, 1, tzinfo=UTC)
    deployment = Deployment(
        deployment_id,
        application_id,
        Kind.DEPLOY,
        forced=asked_by is not None,
        status=Status.RUNNING,
        title="",
        description="",
        reference=reference,
        expected_digest=None,
        digest=digest,
        attempts=1,
        created_at=at,
        requested_at=at,
        next_attempt_at=at,
        started_at=at,
        finished_at=None,
        reason=None,
        log="",
        superseded_by=None,
        rolls_back_to=None,
        epoch=1,
        cancelled_at=None,
        asked_by=asked_by,
        asked_key=asked_key,
    )
    application = Application(
        application_id,
        name=application_id,
        app_name=application_id,
        description=None,
        docker_image=image,
        registry_url=None,
        credentials=None,
        environment=None,
        configuration=Configuration(),
        other_columns={},
        auto_deploy=True,
        desired=Desired.RUNNING,
        server_id=None,
        engine_id=None,
        created_at=at,
    )
    return Candidate(
        deployment, application, reference.with_digest(digest), digest, spec_hash, "linux/amd64", ANONYMOUS, serving
    )
