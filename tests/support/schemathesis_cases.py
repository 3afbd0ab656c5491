"""Asks all that the API's description allows, and some that it does not, and holds the answers to it.

The ids that are sent are often of things that are there; what removes things comes last.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


def no_defect(_context: Any, response: Any, _case: Any) -> None:
    """A part that does not answer is told by 503, and described; nothing else is a server's fault."""
    assert response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR or response.status_code == 503, response.text


CHECKS = [no_defect, status_code_conformance, content_type_conformance, response_schema_conformance]
_MODES = [GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
_REMOVE = ("remove", "delete", "deleteApiKey", "cleanQueues")
#: what makes each noun, so that there is one
_MADE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "projectId": ("project.create", {"name": "project"}),
    "environmentId": ("environment.create", {"name": "staging", "projectId": "projectId"}),
    "applicationId": (
        "application.create", {"name": "app", "dockerImage": "acme/app", "environmentId": "environmentId"}
    ),
    "subscriptionId": ("subscription.create", {"applicationId": "applicationId", "policy": "any"}),
    "portId": ("port.create", {"applicationId": "applicationId", "publishedPort": 8080, "targetPort": 80}),
    "mountId": (
        "mounts.create",
        {"serviceId": "applicationId", "serviceType": "application", "type": "volume", "volumeName": "v",
         "mountPath": "/v"},
    ),
    "endpointId": ("webhook.create", {"source": "generic"}),
    "registryId": ("registry.create", {"registryName": "hub", "username": "u", "password": "p"}),
    "serverId": ("server.create", {"name": "host", "host": "tcp://127.0.0.1:1"}),
}  # fmt: skip


@dataclass
class Client:
    """Somebody with a key, and the ids of what that has made."""

    base: str
    session: requests.Session

    def call(self, procedure: str, given: Mapping[str, Any]) -> Any:
        return self.session.post(f"{self.base}/api/{procedure}", json=given, timeout=30)

    def things(self, before: Mapping[str, str]) -> dict[str, str]:
        """Make one of each noun, unless the one before is in the way; return their ids."""
        known: dict[str, str] = {}
        for name, (procedure, sent) in _MADE.items():
            answer = self.call(procedure, {field: known.get(str(value), value) for field, value in sent.items()})
            assert answer.ok or answer.status_code == HTTPStatus.CONFLICT, answer.text
            known[name] = _id(name, answer.json()) if answer.ok else before[name]
        deployed = self.call("application.redeploy", {"applicationId": known["applicationId"]})
        return known | {"deploymentId": deployed.headers["X-Deployment-Id"], "serviceId": known["applicationId"]}


def _id(name: str, answer: Mapping[str, Any]) -> str:
    found = answer[name] if name in answer else answer[name.removesuffix("Id")][name]
    assert isinstance(found, str)
    return found


def ask(
    document: Mapping[str, Any], base: str, key: str, *, examples: int, derandomize: bool = False
) -> tuple[Counter[int], list[str]]:
    """Return how often each status was answered, and what a check has found, with the request that shows it."""
    schema = schemathesis.openapi.from_dict(dict(document))
    session = requests.Session()
    session.headers["x-api-key"] = key
    client, statuses, found = Client(base, session), Counter[int](), list[str]()
    bounds = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    known = client.things({})
    operations = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    assert len(operations) == len(document["paths"])
    for operation in sorted(operations, key=lambda one: _removes(one.path)):
        if _removes(operation.path):
            known = client.things(known)
        try:
            bounds(_check(operation, f"{base}{document['servers'][0]['url']}", session, known, statuses))()
        except (AssertionError, FailureGroup, requests.RequestException) as error:
            found.append(f"{operation.label}: {error}")
    return statuses, found


def _removes(path: str) -> bool:
    return path.rpartition(".")[2] in _REMOVE


def _check(
    operation: Any, address: str, session: requests.Session, known: Mapping[str, str], statuses: Counter[int]
) -> Callable[[], None]:
    strategies = {mode: operation.as_strategy(generation_mode=mode) for mode in _MODES}

    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(strategies[data.draw(st.sampled_from(_MODES))])
        if data.draw(st.integers(0, 3)):
            case.body, case.query = _filled(case.body, known), _filled(case.query, known)
        response = case.call(base_url=address, session=session, headers=dict(session.headers), timeout=60)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    return check


def _filled(sent: Any, known: Mapping[str, str]) -> Any:
    """Return it with ids of what is there, wherever it names one."""
    if not isinstance(sent, dict):
        return sent
    return {name: known.get(name, _filled(value, known)) for name, value in sent.items()}
