"""One attempt to make an application run what it should, from request to outcome. It performs no I/O.

queued ──claim──▶ running ──┬─▶ succeeded      observed: running, the right digest, healthy
  │  ▲               │      ├─▶ unchanged      what runs already is what was asked for
  │  └──postponed────┘      ├─▶ failed         the old one was never touched
  │                         └─▶ rolled_back    the old one was put back
  ├─▶ superseded   by a newer one while queued
  └─▶ cancelled    by a person; what had begun was put back
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

from gateway.model.configuration import Order, RuntimeKind
from gateway.model.errors import Code, Reason
from gateway.model.reference import Digest, Reference


class Kind(StrEnum):
    """What is wanted."""

    DEPLOY = "deploy"
    REDEPLOY = "redeploy"
    ROLLBACK = "rollback"
    START = "start"
    STOP = "stop"
    DELETE = "delete"


class Status(StrEnum):
    """Where it is, as drawn above."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


FINISHED = frozenset(set(Status) - {Status.QUEUED, Status.RUNNING})

DokployStatus = Literal["running", "done", "error", "cancelled"]
# Dokploy knows four.
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
    """A named part of a rollout, in the order they are done."""

    SETTLE = "settle"
    RESOLVE = "resolve"
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
    """A step as it went. `finished_at` is None while it goes on, and for ever if its gateway died in it."""

    step: Step
    detail: str
    started_at: datetime
    finished_at: datetime | None

    @property
    def seconds(self) -> float:
        """How long it took; nothing for a step that goes on."""
        return 0.0 if self.finished_at is None else (self.finished_at - self.started_at).total_seconds()


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
    #: the deployment whose version a rollback brings back; None for what the application was adopted with
    rolls_back_to: str | None
    epoch: int
    #: it is to be put back, not gone on with
    cancelled_at: datetime | None
    #: the name of the key, or the user on the command line; None where a webhook, or the gateway itself, asked
    asked_by: str | None = None
    #: the key's id
    asked_key: str | None = None
    #: how often in a row it was taken over from a gateway that fell silent in the middle of it
    takeovers: int = 0
    #: how many attempts ended on a defect of the gateway
    defects: int = 0

    @property
    def state(self) -> Status:
        """Return where it is for who looks at it: one that only waits for its turn on the engine has not begun."""
        waits = self.reason is not None and self.reason.code is Code.SLOTS_TAKEN
        return Status.QUEUED if waits and self.status is Status.RUNNING else self.status


class Direction(StrEnum):
    """Which way a swap is going."""

    FORWARD = "forward"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Swap:
    """The one thing to know of a replacement under way: what stood, what comes, in which order, why it goes back.

    `old` and `new` are what the runtime knows them by. `new_restart_policy` is that of a kept container which serves
    again, set aside when it is put back; None for one just created, which is removed then.
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
    #: the epoch of the attempt that opened it, which no other has; one that is cut by a stop is not counted
    attempt: int = 0
    direction: Direction = Direction.FORWARD
    reason: Reason | None = None
    log: str = ""
    #: attempts that left it open since, for what its engine or its images did; and those that ended on a defect
    failed_resumptions: int = 0
    defects: int = 0

    @property
    def starts_beside_old(self) -> bool:
        """Whether the new one proves itself beside the old, before the swap; a service's tasks do so within it."""
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
    replaced: bool = False
    #: what now serves, as the runtime knows it, and how often that was restarted
    object_id: str | None = None
    restarts: int = 0

    @property
    def serves(self) -> bool:
        """Whether what was asked for was observed to serve."""
        if self.status is Status.SUCCEEDED:
            return True
        return self.status is Status.UNCHANGED and self.reason is not None and self.reason.code in _SERVES_ALREADY


@dataclass(frozen=True, slots=True)
class MonitorWindow:
    """That what a deployment brought to serve is looked at, until then; it had had so many restarts when proven."""

    application_id: str
    deployment_id: str
    kind: Kind
    object_id: str
    restarts: int
    until: datetime

    @property
    def runtime(self) -> RuntimeKind:
        """What the object is: only a container's id has 64 characters."""
        return RuntimeKind.CONTAINER if len(self.object_id) == _CONTAINER_ID else RuntimeKind.SERVICE


class LeaseLost(Exception):
    """Another gateway has claimed the deployment: stop at once, touch nothing more."""


class Journal(Protocol):
    """Where a rollout writes what it is about to do. Each method raises LeaseLost for a stale owner."""

    #: another gateway owns the deployment: nothing may be touched any more
    lost: bool

    async def begin(self, step: Step, detail: str = "") -> None:
        """End the step before and begin this one, written down before its first side effect."""

    async def progress(self, detail: str) -> None:
        """Say how far the current step is; the last word stands."""

    async def record_digest(self, digest: Digest) -> None:
        """Write down which image it is."""

    async def open_swap(self, swap: Swap, *, longest_call: float) -> None:
        """Write the swap down, and stretch the lease."""

    async def extend_lease(self, longest_call: float) -> None:
        """Hold the lease for at least so many seconds from each heartbeat."""

    async def ensure_lease(self) -> None:
        """Return where no other gateway can have taken over, as far as can be known without the database."""

    async def extend_lease_if_possible(self, longest_call: float) -> None:
        """Do the same in a swap that has begun: whatever the database answers, it goes on."""

    async def record_reversal(self, swap: Swap) -> None:
        """Write down that the swap goes back, and why, whatever the database answers."""

    async def record_wait(self, waits_for: str) -> None:
        """Tell for whom the rollout waits, unless the database refuses."""

    async def clear_wait(self) -> None:
        """It waits no more."""

    def note_step(self, step: Step, detail: str = "") -> None:
        """Begin a step of a swap: kept in memory, written when the database can be reached."""

    async def flush_if_possible(self) -> None:
        """Write what was noted, unless the database refuses."""

    async def close_swap(self) -> None:
        """The swap is over, one way or the other."""

    async def close_swap_if_possible(self) -> None:
        """The same, unless the database refuses: then the record is settled again by whoever is claimed next."""
