"""What a rollout asks of whatever runs an application: a container here, a service of a Swarm there.

    serving ─▶ obtain ─▶ check ─▶ prepare ─┬─ start-first: present ─▶ prove ─▶ exchange ─▶ prove ─▶ retire ─┬─▶ tidy
                                           └─ stop-first:                      exchange ─▶ prove ───────────┘

Every call may be repeated: after a crash, whoever comes next
calls `exchange`, or `put_back`, with the same Swap again. Each raises Failed for what does not heal by itself, and
Postponed for what does.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from gateway.model.configuration import Configuration
from gateway.model.deployments import Swap
from gateway.model.errors import Reason
from gateway.model.reference import Digest, Reference

Progress = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines, in seconds; an application's own configuration wins over the first two."""

    stable_window: float
    health_deadline: float
    pull_stall: float
    #: what a call may take beyond the grace it is given
    call_margin: float
    #: how long a replaced version is kept at most
    kept_for: float

    def of(self, configuration: Configuration) -> Self:
        """Return the application's own pace, where it has one."""
        return replace(
            self,
            stable_window=configuration.stable_window or self.stable_window,
            health_deadline=configuration.health_deadline or self.health_deadline,
        )


@dataclass(frozen=True, slots=True)
class Version:
    """What is to run: an image by digest, for one attempt of one deployment."""

    reference: Reference
    digest: Digest
    deployment_id: str
    #: its epoch
    attempt: int


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves an application, as it was seen a moment ago; what another made bears no digest, spec, deployment."""

    object_id: str
    name: str
    running: bool
    #: running, settled, and healthy where there is a check
    healthy: bool
    digest: str | None
    spec_hash: str | None
    deployment_id: str | None
    #: how often it was restarted by itself
    restarts: int = 0


class Runtime(Protocol):
    """One application on one engine."""

    async def remove_leftovers(self) -> None:
        """Take away what attempts that died have left beside what serves; no swap is open."""

    async def serving(self) -> Serving | None:
        """Return what bears the application's name; raises Failed where that is somebody else's."""

    def spec_hash(self) -> str:
        """Return what changes whenever the user's choice does."""

    async def check_requirements(self) -> None:
        """Raises Failed where the engine lacks what the application needs: a network, a free port."""

    async def pull(self, reference: Reference, progress: Progress) -> None:
        """Get the image, by digest, to where it will run; raises Failed where it is for another platform."""

    async def create(self, version: Version, serving: Serving | None) -> Swap:
        """Create the new one beside the old, which is not touched; the record of how one takes the other's place."""

    async def find_kept(self, version: Version, serving: Serving | None) -> Swap | None:
        """Return how the version takes its place again, or None where nothing of it is kept."""

    async def start_beside(self, swap: Swap) -> None:
        """Start the new one beside the old, under no serving name."""

    async def discard(self, swap: Swap) -> None:
        """Remove the new one, which has never served."""

    async def switch_over(self, swap: Swap) -> None:
        """Let the new one serve in place of the old."""

    async def wait_until_ready(self, swap: Swap, *, again: bool = False) -> None:
        """Return once the new one is observed sound, in the right version; raises Failed with what it did instead.

        `again`: it has proven itself before, and only what has happened since counts.
        """

    async def stop_old(self, swap: Swap) -> None:
        """Drain the old one and stop it."""

    async def wait_out_pending_calls(self, swap: Swap) -> None:
        """Wait until no call that an attempt before has begun can reach the old one any more."""

    async def put_back(self, swap: Swap) -> None:
        """Let the old one serve again, or its like, else the new one; raises Postponed until that is done."""

    async def check_restored(self, swap: Swap, serving: Serving) -> None:
        """Return once what serves after a swap was put back is observed sound; raises Failed where it is not."""

    async def is_superseded(self, swap: Swap) -> bool:
        """Tell whether a newer deployment serves than the swap is of: what is written down of it holds no more."""

    async def clean_up(self, swap: Swap) -> None:
        """Make it lasting: the local tag points at what runs, and of the replaced ones only those to keep stay."""

    async def last_lines(self, swap: Swap) -> str:
        """Return the end of what the new one has logged."""

    async def start(self, serving: Serving) -> None:
        """Start what was stopped, and return once it has proven itself."""

    async def stop(self, serving: Serving) -> None:
        """Stop it, to be started again."""

    async def remove(self) -> None:
        """Remove all there is of the application, its named volumes excepted."""

    async def failure_reason(self, object_id: str, restarts: int) -> Reason | None:
        """Return what has befallen it since it was proven, with so many restarts then; None where it is sound."""

    async def run_probe(self, object_id: str) -> Reason | None:
        """Ask the application's probe once; None where it passes, or where there is none."""

    async def prune_kept(self) -> None:
        """Remove what was replaced and is kept for longer than it may be."""

    def longest_call(self) -> float:
        """Return the seconds that the longest call of a swap may take."""
