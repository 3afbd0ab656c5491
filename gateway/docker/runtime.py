"""Interface of a runtime: what a rollout needs from whatever runs an application, a container or a Swarm service.

    serving ─▶ pull ─▶ check_requirements ─▶ create
    start-first:  start_beside ─▶ wait_until_ready ─▶ switch_over ─▶ wait_until_ready ─▶ stop_old ─▶ clean_up
    stop-first:                                       switch_over ─▶ wait_until_ready ─────────────▶ clean_up
      or, where it boots without its network:
                  boot_beside ──▶ Boot.wait ────────▶ switch_over ─▶ wait_until_ready ─────────────▶ clean_up

Every call can be repeated. After a crash the next attempt calls `switch_over` or `put_back` again with the same Swap.
Each call raises Failed for an error that needs a person, and Postponed for a transient one.
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
    """Deadlines in seconds. The application's own configuration overrides the first two."""

    stable_window: float
    health_deadline: float
    pull_stall: float
    #: added to the grace period for the longest duration of a call
    call_margin: float
    #: the longest time that a replaced version is kept
    kept_for: float

    def of(self, configuration: Configuration) -> Self:
        """Return the timeouts with the application's own values applied."""
        return replace(
            self,
            stable_window=configuration.stable_window or self.stable_window,
            health_deadline=configuration.health_deadline or self.health_deadline,
        )


@dataclass(frozen=True, slots=True)
class Version:
    """The version to run: an image by digest, for one attempt of one deployment."""

    reference: Reference
    digest: Digest
    deployment_id: str
    #: the deployment's epoch
    attempt: int


@dataclass(frozen=True, slots=True)
class Serving:
    """The container or service that serves an application, at the time of the inspection.

    `digest`, `spec_hash` and `deployment_id` are None if the gateway did not create it, or if it has another image than
    its labels say.
    """

    object_id: str
    name: str
    running: bool
    #: running, not restarting, and healthy if it has a health check
    healthy: bool
    digest: str | None
    spec_hash: str | None
    deployment_id: str | None
    #: how often the engine has restarted it
    restarts: int = 0


class Boot(Protocol):
    """The isolated boot of a new version beside the old one.

    Both calls raise Failed when the new version needs its network. Then it is created again, and starts in the swap.
    """

    async def wait(self) -> None:
        """Return when the new version has booted."""

    async def check_silent(self) -> None:
        """Check that it has not used its network so far."""


class Runtime(Protocol):
    """One application on one engine."""

    async def remove_leftovers(self) -> None:
        """Remove what earlier attempts left beside the serving version. Requires that no swap is open."""

    async def serving(self) -> Serving | None:
        """Return the container or service with the application's name. Raises Failed when it is somebody else's."""

    def spec_hash(self) -> str:
        """Return a hash of everything the user configured."""

    async def check_requirements(self, serving: Serving | None) -> None:
        """Check that the engine has the networks and free ports that the application needs. Raises Failed."""

    async def platforms(self) -> frozenset[str]:
        """Return the platforms of the engines that may run it, such as `linux/amd64`."""

    async def pull(self, reference: Reference, progress: Progress) -> None:
        """Pull the image by digest. Raises Failed when it is for another platform."""

    async def create(self, version: Version, serving: Serving | None, *, obstacle: str = "") -> Swap:
        """Create the new version beside the old one, which is not changed, and return the record of the swap.

        For a stop-first swap, the record says whether the new version boots beside the old one. An `obstacle` is a
        reason why it must not.
        """

    async def find_kept(self, version: Version, serving: Serving | None) -> Swap | None:
        """Return a swap that brings back a kept container of this version, or None when none is kept."""

    async def start_beside(self, swap: Swap) -> None:
        """Start the new version beside the old one, without the serving name."""

    async def boot_beside(self, swap: Swap) -> Boot:
        """Start the new version of a stop-first swap beside the old one, where it reaches nothing."""

    async def discard(self, swap: Swap) -> None:
        """Remove the new version, which has never served."""

    async def switch_over(self, swap: Swap, booting: Awaitable[Boot] | None = None) -> None:
        """Let the new version serve in place of the old one. `booting` is its `boot_beside`, if that still runs."""

    async def wait_until_ready(self, swap: Swap, *, again: bool = False) -> None:
        """Return when the new version is ready. Raises Failed with the reason when it is not.

        With `again`, the version was ready before, and only what has happened since then counts.
        """

    async def stop_old(self, swap: Swap) -> None:
        """Drain the old version, then stop it."""

    async def wait_out_pending_calls(self, swap: Swap) -> None:
        """Wait until no call of an earlier attempt can still reach the old version."""

    async def put_back(self, swap: Swap) -> None:
        """Let the old version serve again, or a copy of it, or else the new version.

        Raises Postponed until that is done.
        """

    async def check_restored(self, swap: Swap, serving: Serving) -> None:
        """Return when the version that serves after `put_back` is ready. Raises Failed when it is not."""

    async def is_superseded(self, swap: Swap) -> bool:
        """Return whether a newer deployment than the swap's serves, so that its record is out of date."""

    async def rebuild_swap(self, serving: Serving, deployment_id: str) -> Swap:
        """Return the unrecorded swap that let this version serve, as far as the engine shows it."""

    async def find_begun_swap(self, deployment_id: str) -> Swap | None:
        """Return the swap that the deployment began and whose record is gone. None if the old version has the name."""

    async def clean_up(self, swap: Swap, *, at_least: int = 0) -> None:
        """Point the local tag at the new image, and remove replaced versions beyond the number to keep.

        At least `at_least` replaced versions are kept, whatever is configured.
        """

    async def last_lines(self, swap: Swap) -> str:
        """Return the end of the new version's log."""

    async def start(self, serving: Serving) -> None:
        """Start a stopped version, and return when it is ready."""

    async def stop(self, serving: Serving) -> None:
        """Stop the version. It can be started again."""

    async def remove(self) -> None:
        """Remove everything of the application except its named volumes."""

    async def failure_reason(self, object_id: str, restarts: int) -> Reason | None:
        """Return why the version stopped working since it was ready with `restarts` restarts, or None."""

    async def run_probe(self, object_id: str) -> Reason | None:
        """Run the application's probe once. Return the failure, or None when it passes or there is no probe."""

    async def prune_kept(self) -> None:
        """Remove replaced versions that were kept for longer than `kept_for`, and those beyond the number to keep."""

    def longest_call(self) -> float:
        """Return how many seconds the longest call of a swap can take."""
