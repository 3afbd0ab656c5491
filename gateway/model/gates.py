"""Gates: what a deployment must pass before its image is pulled. It performs no I/O.

A gate is asked about one image, by digest, and answers with a decision:

    passed    the deployment goes on
    refused   it fails with the gate's code and message; what serves is not touched
    unknown   the gate cannot tell yet: the deployment waits, without a slot, and asks again
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from gateway.model.applications import Application
from gateway.model.deployments import Deployment, Kind
from gateway.model.errors import Code, Reason
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Login


class Verdict(StrEnum):
    """The answer of a gate."""

    PASSED = "passed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is about to be deployed. `reference` has the digest that the registry resolved."""

    deployment: Deployment
    application: Application
    reference: Reference
    digest: Digest
    #: hash of the configuration that the new version is created from
    spec_hash: str
    #: platform of the engine, such as `linux/amd64`
    platform: str
    login: Login
    #: the digest that serves now, None if nothing serves
    serving: Digest | None = None
    #: whether this exact version, image and configuration, has served the application before
    served_before: bool = False
    #: whether its engine manages a Swarm, whose nodes may be of other platforms
    on_swarm: bool = False
    #: platforms of the nodes that may run it; empty where they are not known
    node_platforms: frozenset[str] = frozenset()
    #: when the gate that gets this was first asked about this digest for this deployment, or for one that it superseded
    first_asked_at: datetime | None = None
    #: whether it is only checked: nothing is deployed, `deployment` is in no table, and no gate writes anything down
    only_checked: bool = False

    @property
    def rolls_back(self) -> bool:
        """Whether it only brings back a version that has served: a rollback, or a start after its container is gone."""
        return self.served_before and self.deployment.kind in {Kind.ROLLBACK, Kind.START}

    @property
    def is_automatic_rollback(self) -> bool:
        """Whether the gateway itself rolls back, or heals: what serves now is broken."""
        return self.rolls_back and self.deployment.kind is Kind.ROLLBACK and not self.deployment.forced


@dataclass(frozen=True, slots=True)
class Decision:
    """What a gate decided. `evidence` is JSON: the facts that led to it."""

    verdict: Verdict
    code: Code
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    #: of an unknown one: when to ask again at the latest; None: after the usual delay
    ask_again_at: datetime | None = None
    #: of a passed one: until when it holds for the same application, repository, digest, configuration and rule. Set it
    #: only where nothing else decided; None: it is asked anew by each attempt
    true_until: datetime | None = None

    @property
    def reason(self) -> Reason:
        return Reason(self.code, self.message)


def passed(message: str, evidence: Mapping[str, Any] | None = None, *, true_until: datetime | None = None) -> Decision:
    return Decision(Verdict.PASSED, Code.GATE_PASSED, message, evidence or {}, true_until=true_until)


def refused(code: Code, message: str, evidence: Mapping[str, Any] | None = None) -> Decision:
    return Decision(Verdict.REFUSED, code, message, evidence or {})


def unknown(
    code: Code, message: str, evidence: Mapping[str, Any] | None = None, *, ask_again_at: datetime | None = None
) -> Decision:
    return Decision(Verdict.UNKNOWN, code, message, evidence or {}, ask_again_at=ask_again_at)


class Level(StrEnum):
    """What a gate belongs to; the nearest first."""

    APPLICATION = "application"
    ENVIRONMENT = "environment"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class GateSetting:
    """A gate as it is set on an application, environment or project."""

    gate_id: str
    level: Level
    owner_id: str
    kind: str
    name: str
    rule: Mapping[str, Any]
    enabled: bool
    required: bool
    created_at: datetime
    secret: str | None = field(default=None, repr=False)
    #: why the secret cannot be decrypted
    unreadable: str | None = None
    #: identifies the secret as it is stored, without revealing it; empty if there is none
    secret_mark: str = ""

    @property
    def rule_hash(self) -> str:
        """Identifies the rule: a verdict holds for one rule alone."""
        text = json.dumps([self.kind, self.rule, self.secret_mark], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


_NEAREST = (Level.APPLICATION, Level.ENVIRONMENT, Level.PROJECT)


def effective(settings: Sequence[GateSetting]) -> list[GateSetting]:
    """Return the gates that apply to an application, given all of its own, its environment's and its project's.

    Of those with one name the nearest applies, and none if that one is disabled. Required ones apply in any case.
    """
    chosen: dict[str, GateSetting] = {}
    for one in sorted(settings, key=lambda one: (one.name, _NEAREST.index(one.level))):
        chosen.setdefault(one.name, one)
    required = [one for one in settings if one.required and chosen[one.name] is not one]
    return sorted(
        [one for one in chosen.values() if one.enabled] + required,
        key=lambda one: (one.name, _NEAREST.index(one.level)),
    )
