"""The trace of a deployment, in the JSON of OTLP (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).

The ids follow from the deployment's id: so attempts before and after a restart are one trace, which is the same
whichever gateway sends it, and however often.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.model.deployments import FINISHED, Deployment, Status, StepRecord

_INTERNAL, _CONSUMER = 1, 5  # kinds of spans
_OK, _ERROR = 1, 2
_BAD = frozenset({Status.FAILED, Status.ROLLED_BACK})
_LONGEST = 1000  # characters of a value


def trace_id(deployment_id: str) -> str:
    """Return the 32 digits of the trace: the deployment's id without its dashes, where it is a UUID."""
    try:
        return UUID(deployment_id).hex
    except ValueError:
        return hashlib.blake2b(deployment_id.encode(), digest_size=16).hexdigest()


def spans(
    deployment: Deployment, name: str, received_at: datetime | None, steps: Sequence[StepRecord]
) -> list[dict[str, Any]]:
    """Return the spans of a deployment that has ended: the whole, its acceptance, the queue and each step.

    A step that has no end, since its gateway was killed in it, lasts until the next one begins.
    """
    ended = deployment.finished_at
    if deployment.status not in FINISHED or ended is None:
        raise ValueError(f"deployment {deployment.deployment_id} has not ended")
    first = min(received_at or deployment.created_at, deployment.created_at)
    trace, root = trace_id(deployment.deployment_id), _span_id(deployment.deployment_id, "root")

    def span(
        what: str, key: str, begins: datetime, ends: datetime, *, failed: bool, attributes: Mapping[str, str]
    ) -> dict[str, Any]:
        return {
            "traceId": trace,
            "spanId": _span_id(deployment.deployment_id, key),
            "parentSpanId": root,
            "name": what,
            "kind": _INTERNAL,
            "startTimeUnixNano": _nanoseconds(begins),
            "endTimeUnixNano": _nanoseconds(max(begins, ends)),
            "attributes": [_attribute(*one) for one in attributes.items() if one[1]],
            "status": {"code": _ERROR if failed else _OK},
        }

    bad, reason = deployment.status in _BAD, deployment.reason
    about = {
        "gateway.application": name,
        "gateway.application_id": deployment.application_id,
        "gateway.deployment_id": deployment.deployment_id,
        "gateway.kind": deployment.kind,
        "gateway.outcome": deployment.status,
        "gateway.attempts": str(deployment.attempts),
        "gateway.digest": deployment.digest or "",
        "gateway.code": reason.code if reason else "",
    }
    whole = span(f"{deployment.kind} {name}", "root", first, ended, failed=bad, attributes=about)
    whole |= {"kind": _CONSUMER, "parentSpanId": ""}
    if bad and reason:
        whole["status"]["message"] = reason.message[:_LONGEST]
    found = [whole]
    if received_at is not None:
        found.append(span("accept", "accept", first, deployment.created_at, failed=False, attributes={}))
    claimed = deployment.started_at or ended
    found.append(span("queue", "queue", deployment.created_at, claimed, failed=False, attributes={}))
    following = [*(one.started_at for one in steps[1:]), ended]
    for number, (one, until) in enumerate(zip(steps, following, strict=True) if steps else ()):
        killed = one.finished_at is None
        attributes = {"gateway.detail": one.detail, "gateway.interrupted": "true" if killed else ""}
        ends = one.finished_at or until
        found.append(span(one.step, f"step {number}", one.started_at, ends, failed=killed, attributes=attributes))
    return found


def request(found: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    """Return the body of a request that exports these spans."""
    resource = [_attribute("service.name", "pushdeploy"), _attribute("service.version", version)]
    scope = {"scope": {"name": "gateway", "version": version}, "spans": list(found)}
    return {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]}


def _span_id(deployment_id: str, key: str) -> str:
    return hashlib.blake2b(f"{deployment_id}/{key}".encode(), digest_size=8).hexdigest()


def _nanoseconds(at: datetime) -> str:
    return str(int(at.timestamp() * 1_000_000) * 1000)


def _attribute(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": str(value)[:_LONGEST]}}
