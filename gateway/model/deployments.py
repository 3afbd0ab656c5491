"""Deployments: one request to bring an image into service, from queue to outcome. It performs no I/O.

queued ──claim──▶ running ──┬─▶ succeeded      observed: running, the right digest, healthy
  │  ▲               │      ├─▶ unchanged      the requested version already runs
  │  └──postponed────┘      ├─▶ failed         the old version was not touched
  │                         └─▶ rolled_back    the old version was put back
  ├─▶ superseded   by a newer deployment while queued
  └─▶ cancelled    by a user; the old version was put back
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from gateway.model.applications import Application
from gateway.model.configuration import Order, RuntimeKind
from gateway.model.errors import Code, Reason
from gateway.model.reference import Digest, Reference


class Kind(StrEnum):
    """What a deployment does."""

    DEPLOY = "deploy"
    REDEPLOY = "redeploy"
    ROLLBACK = "rollback"
    START = "start"
    STOP = "stop"
    DELETE = "delete"


class Status(StrEnum):
    """The state of a deployment."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


FINISHED = frozenset(set(Status) - {Status.QUEUED, Status.RUNNING})
#: how a deployment ended that brought nothing into service
BROUGHT_NOTHING = frozenset({Status.FAILED, Status.ROLLED_BACK})
_RAN = frozenset({Status.SUCCEEDED, Status.UNCHANGED})


def has_run(observed: object, states: Iterable[str]) -> bool:
    """Return whether a version of an application ever ran: one was observed, or one of its deployments brought one."""
    return observed is not None or not _RAN.isdisjoint(states)


DokployStatus = Literal["running", "done", "error", "cancelled"]
# Dokploy has only four.
DOKPLOY_STATUS: dict[Status, DokployStatus] = {
    Status.QUEUED: "running",
    Status.RUNNING: "running",
    Status.SUCCEEDED: "done",
    Status.UNCHANGED: "done",
    Status.FAILED: "error",
    Status.ROLLED_BACK: "error",
    Status.SUPERSEDED: "cancelled",
    Status.CANCELLED: "cancelled",
}


class Step(StrEnum):
    """A named part of a rollout, in the order of execution."""

    SETTLE = "settle"
    RESOLVE = "resolve"
    GATES = "gates"
    PULL = "pull"
    VERIFY = "verify"
    CREATE = "create"
    SWAP = "swap"
    PROVE = "prove"
    DRAIN = "drain"
    COMMIT = "commit"
    PUT_BACK = "put_back"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of a rollout. `finished_at` is None while it runs, and stays None if the gateway was killed in it."""

    step: Step
    detail: str
    started_at: datetime
    finished_at: datetime | None

    @property
    def seconds(self) -> float:
        """Duration; 0 while the step runs."""
        return 0.0 if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()


_WAITS_AS_RUNNING = frozenset({Code.SLOTS_TAKEN, Code.RELEASE_WAITS})


@dataclass(frozen=True, slots=True)
class Deployment:
    """A row of the queue."""

    deployment_id: str
    application_id: str
    kind: Kind
    forced: bool
    status: Status
    title: str
    description: str
    reference: Reference | None
    expected_digest: Digest | None
    digest: Digest | None
    attempts: int
    created_at: datetime
    requested_at: datetime
    next_attempt_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    reason: Reason | None
    log: str
    superseded_by: str | None
    #: the deployment whose version a rollback restores; None for the adopted version
    rolls_back_to: str | None
    epoch: int
    #: when a user asked to cancel it: the rollout puts back what it has begun
    cancelled_at: datetime | None
    #: name of the API key, or user of the command line; None for a webhook or the gateway itself
    asked_by: str | None = None
    #: the key's id
    asked_key: str | None = None
    #: how often in a row it was taken over after its gateway stopped renewing the lease
    takeovers: int = 0
    #: attempts that ended with a defect of the gateway
    defects: int = 0
    #: the release that it belongs to
    release_id: str | None = None

    @property
    def state(self) -> Status:
        """The status to show: what waits for a slot on the engine, or for its release, still counts as queued."""
        waits = self.reason is not None and self.reason.code in _WAITS_AS_RUNNING
        return Status.QUEUED if waits and self.status is Status.RUNNING else self.status


class Direction(StrEnum):
    """Which way a swap is going."""

    FORWARD = "forward"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Swap:
    """The record of a swap in progress: old and new, their order, and why the swap is reversed.

    `old` and `new` are ids of the runtime. `new_restart_policy` is set if `new` is a kept container that serves again:
    a reversal keeps it. It is None for a container that was just created: a reversal removes it.
    """

    application_id: str
    deployment_id: str
    serving_name: str
    old: str | None
    old_restart_policy: dict[str, object] | None
    new: str
    new_restart_policy: dict[str, object] | None = None
    runtime: RuntimeKind = RuntimeKind.CONTAINER
    order: Order = Order.STOP_FIRST
    #: epoch of the attempt that opened it, unique to that attempt
    attempt: int = 0
    direction: Direction = Direction.FORWARD
    reason: Reason | None = None
    log: str = ""
    #: later attempts that could not close it because of the engine or the images
    failed_resumptions: int = 0
    defects: int = 0
    #: whether the new container boots off its network, before the swap or during it; not stored
    boots_beside_old: bool = field(default=False, compare=False)
    #: whether it does so while the old one stops, since the version before booted at once; not stored
    boots_quickly: bool = field(default=False, compare=False)
    #: why it does not, or ""; not stored
    boot_obstacle: str = field(default="", compare=False)

    @property
    def starts_beside_old(self) -> bool:
        """Whether the new container becomes ready while the old one runs. Services do this within the swap."""
        return self.order is Order.START_FIRST and self.runtime is RuntimeKind.CONTAINER


_CONTAINER_ID = 64  # characters
_SERVES_ALREADY = frozenset({Code.UP_TO_DATE, Code.SATISFIED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rollout ended."""

    status: Status
    reason: Reason | None = None
    log: str = ""
    digest: Digest | None = None
    spec_hash: str | None = None
    #: the application that what serves now was made from; None if nothing was replaced
    ran: Application | None = None
    #: id of what serves now in the runtime, and its number of restarts
    object_id: str | None = None
    restarts: int = 0

    @property
    def replaced(self) -> bool:
        """Whether a new version took the place of the old one."""
        return self.ran is not None

    @property
    def serves(self) -> bool:
        """Whether the requested version was observed to serve."""
        if self.status is Status.SUCCEEDED:
            return True
        return self.status is Status.UNCHANGED and self.reason is not None and self.reason.code in _SERVES_ALREADY


@dataclass(frozen=True, slots=True)
class MonitorWindow:
    """The time in which a new version is monitored after its rollout. `restarts` were counted when it became ready."""

    application_id: str
    deployment_id: str
    kind: Kind
    object_id: str
    restarts: int
    until: datetime

    @property
    def runtime(self) -> RuntimeKind:
        """The runtime of the object: only the id of a container has 64 characters."""
        return RuntimeKind.CONTAINER if len(self.object_id) == _CONTAINER_ID else RuntimeKind.SERVICE


class LeaseLost(Exception):
    """Another gateway has claimed the deployment: stop at once and change nothing more."""


class Journal(Protocol):
    """Records each step of a rollout before it happens. Each method raises LeaseLost if another gateway took over."""

    #: another gateway owns the deployment: change nothing more
    lost: bool

    @property
    def step(self) -> Step | None:
        """The current step."""

    async def begin(self, step: Step, detail: str = "") -> None:
        """End the previous step and begin this one. It is stored before the first side effect of the step."""

    async def progress(self, detail: str) -> None:
        """Replace the progress text of the current step."""

    async def quick_progress(self, detail: str) -> None:
        """Do the same for a step that is mostly done at once: then the text is stored with the next step."""

    def note_digest(self, digest: Digest) -> None:
        """Note the digest of the resolved image. It is stored before the next step begins."""

    async def record_pull(self, digest: Digest) -> None:
        """Store that an image is about to be pulled before it is resolved, so that it is removed if it is not used."""

    async def open_swap(self, swap: Swap, application: Application, *, longest_call: float) -> None:
        """Store the swap, and the application that its new version was made from; extend the lease."""

    async def extend_lease(self, longest_call: float) -> None:
        """Make each heartbeat extend the lease by at least `longest_call` seconds."""

    async def ensure_lease(self) -> None:
        """Return unless another gateway has taken over.

        Asks the database when the lease may have run out, and goes on if the database does not answer.
        """

    async def extend_lease_if_possible(self, longest_call: float) -> None:
        """Like `extend_lease`, for a swap in progress: errors of the database are ignored."""

    async def record_reversal(self, swap: Swap) -> None:
        """Store that the swap is reversed, and why. Errors of the database are ignored."""

    async def record_wait(self, waits_for: str) -> None:
        """Store which applications the rollout waits for. Errors of the database are ignored."""

    async def clear_wait(self) -> None:
        """Store that the rollout no longer waits."""

    def note_step(self, step: Step, detail: str = "") -> None:
        """Begin a step of a swap in memory. It is stored when the database is reachable."""

    async def flush(self) -> None:
        """Store the noted steps."""

    async def flush_if_possible(self) -> None:
        """Store the noted steps. Errors of the database are ignored."""

    async def close_swap(self) -> None:
        """Remove the record of the swap: it has succeeded or was reversed."""

    async def close_swap_if_possible(self) -> None:
        """Like `close_swap`, but errors of the database are ignored: the next deployment then closes the record."""
