"""Computes from a service's tasks how far an update has come. No I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.docker.container import exit_diagnosis
from gateway.docker.engine.errors import classify
from gateway.docker.engine.labels import ATTEMPT, DEPLOYMENT
from gateway.docker.engine.services import Node, Service, Task
from gateway.model.errors import Code, Failed

_ENDED = frozenset({"complete", "shutdown", "failed", "rejected", "remove", "orphaned"})
_FAILED = frozenset({"complete", "failed", "rejected"})
_STOPPING = frozenset({"shutdown", "remove"})
_WANTED = frozenset({"ready", "running"})
_SETTLED = frozenset({"", "completed", "rollback_completed"})
_CODES_BY_MESSAGE = ((("unhealthy container",), Code.UNHEALTHY), (("no such image",), Code.NODE_CANNOT_PULL))
# Reasons why no node accepts a task, for when all nodes have the same one.
_PLACEMENT_CODES = {"unsupported platform": Code.WRONG_ARCHITECTURE, "host-mode port already in use": Code.PORT_TAKEN}
# A task whose container was removed, or whose node's engine was starting, did not fail by itself.
_EXCUSES = ("no such container", "swarm is not active")
# Right after the managers restart, no node is available yet.
_NODES_AWAY = re.compile(r"no suitable node \(\d+ nodes? not available for new tasks\)")
_NON_ZERO_EXIT = re.compile(r"task: non-zero exit \((?P<code>\d+)\)")


class Interrupted(Failed):
    """The Swarm gave up an update although its tasks did not fail. Send the update again."""


@dataclass(frozen=True, slots=True)
class AttemptKey:
    """Identifies the specs and tasks of one attempt of one deployment."""

    deployment_id: str
    attempt: str

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> "AttemptKey":
        return cls(labels.get(DEPLOYMENT, ""), labels.get(ATTEMPT, ""))


@dataclass(frozen=True, slots=True)
class ServiceProgress:
    """How far one version of a service is: the number of running and wanted tasks, and what blocks it."""

    running: int
    wanted: int
    #: running tasks of another version, or surplus ones
    leftover: Sequence[Task]
    settled: bool
    #: the newest failed task of this version
    failed_task: Task | None
    #: a task of this version that no node accepts, although nodes are available
    unplaced: Task | None
    #: a task of this version that is not running yet
    lagging: Task | None
    #: a task of this version whose node was lost before it ran; the Swarm's update waits for it forever
    stuck: Task | None
    #: ids of running tasks; when they change, the stability window begins again
    tasks: frozenset[str]
    #: number of failed tasks of this version
    restarts: int
    #: ids of tasks that ended with their node's engine, or whose container was removed
    excused: frozenset[str]
    #: the Swarm wants two tasks in one slot: it restarted a task that its update replaced at the same time
    crowded: bool

    @property
    def converged(self) -> bool:
        return self.settled and self.running == self.wanted > 0 and not self.leftover


def observe(
    service: Service,
    tasks: Sequence[Task],
    key: AttemptKey,
    *,
    nodes: Mapping[str, Node] | None = None,
    before: frozenset[str] = frozenset(),
) -> ServiceProgress:
    """Return the progress of the version `key`. Tasks on nodes that are down do not count.

    The failures of tasks in `before` are ignored. A task with another image counts as another version, despite its
    labels.
    """
    down = frozenset(node_id for node_id, node in (nodes or {}).items() if node.down)
    ours = [task for task in tasks if AttemptKey.of(task.labels) == key and task.image_matches_labels]
    present = [task for task in ours if task.desired_state == "running" and task.state not in _ENDED]
    running = [task for task in present if task.state == "running" and task.node_id not in down]
    waiting = [task for task in present if task not in running]
    others = [task for task in tasks if task not in ours and task.state not in _ENDED and task.node_id not in down]
    leaving = [task for task in ours if task.desired_state in _STOPPING and task.state not in _ENDED | {"new"}]
    ended = [task for task in ours if task.state in _FAILED and task.task_id not in before]
    excused = frozenset(task.task_id for task in ended if _is_excused(task, nodes or {}))
    broken = [task for task in ended if task.task_id not in excused]
    expected = [task for task in tasks if task.desired_state in _WANTED]
    everywhere = len(_slots(present)) + sum(task.desired_state == "running" for task in others)
    return ServiceProgress(
        running=len(_slots(running)),
        wanted=everywhere if service.replicas is None else service.replicas,
        leftover=others + [task for task in leaving if task.node_id not in down],
        settled=service.update_state in _SETTLED,
        failed_task=_first(broken),
        unplaced=_first(
            task for task in waiting if "no suitable node" in task.message and not _NODES_AWAY.search(task.message)
        ),
        lagging=_first(waiting),
        stuck=_first(task for task in ours if task.node_id in down and task.state not in _ENDED | {"running"})
        if service.update_state == "updating"
        else None,
        tasks=frozenset(task.task_id for task in running),
        restarts=len(broken),
        excused=excused,
        crowded=len(expected) > len(_slots(expected)),
    )


def _slots(tasks: Iterable[Task]) -> set[int | str]:
    """Return the slots or nodes of the tasks. After an interrupted update, two tasks can be in one slot."""
    return {task.slot or task.node_id for task in tasks}


def _is_excused(task: Task, nodes: Mapping[str, Node]) -> bool:
    """Return whether the task did not fail by itself: its node's engine restarted, or its container was removed."""
    node, said = nodes.get(task.node_id), task.message.lower()
    return any(words in said for words in _EXCUSES) or (node is not None and node.registered_at > task.created)


def _first(tasks: Iterable[Task]) -> Task | None:
    return next(iter(tasks), None)


def all_ended(tasks: Iterable[Task], *, down: frozenset[str] = frozenset()) -> bool:
    """Return whether no task can still run."""
    return all(task.state in _ENDED or task.node_id in down for task in tasks)


def raise_if_failed(service: Service, progress: ServiceProgress, key: AttemptKey) -> None:
    """Raise Failed when the version will not succeed, because its tasks fail or the Swarm has given up.

    Raises Interrupted when the Swarm gave up because of tasks that did not fail by themselves.
    """
    name = service.name
    is_ours = AttemptKey.of(service.labels) == key
    # A version that a rollback restores is ours too: the rollback itself is no failure.
    gave_up = service.update_state == "paused" or (service.update_state.startswith("rollback") and not is_ours)
    if progress.failed_task is None and progress.excused and gave_up:
        raise Interrupted(
            Code.ENGINE_BUSY, f"the Swarm gave up the update of {name} because the engine of a node was restarted"
        )
    if not is_ours:
        if not service.update_state.startswith("rollback"):
            raise Failed(Code.ENGINE_REFUSED, f"the service {name} was changed by somebody else during the rollout")
        why = (
            task_failure(name, progress.failed_task)
            if progress.failed_task
            else Failed(Code.ENGINE_REFUSED, service.update_message)
        )
        raise Failed(why.reason.code, f"the Swarm rolled {name} back: {why.reason.message}")
    if not service.image_matches_labels:
        raise Failed(
            Code.ENGINE_REFUSED, f"somebody else set the image of {name} to {service.image} during the rollout"
        )
    if service.update_state == "paused":
        why = (
            task_failure(name, progress.failed_task)
            if progress.failed_task
            else Failed(Code.ENGINE_REFUSED, service.update_message)
        )
        raise Failed(why.reason.code, f"the Swarm paused the update of {name}: {why.reason.message}")
    if progress.failed_task is not None and not _tolerates_failures(service):
        raise task_failure(name, progress.failed_task)


def _tolerates_failures(service: Service) -> bool:
    """Return whether the update is configured to continue when tasks fail."""
    config = service.update_config
    chosen = config.get("FailureAction") == "continue" or config.get("MaxFailureRatio", 0) > 0
    return bool(chosen) and service.update_state == "updating"


def task_failure(name: str, task: Task) -> Failed:
    """Return the error for a failed task."""
    lowered, classified = task.message.lower(), classify(0, task.message).reason
    code = (
        next((code for words, code in _CODES_BY_MESSAGE if any(word in lowered for word in words)), None)
        or classified.code
    )
    if code is Code.ENGINE_REFUSED and task.state != "rejected":
        code = Code.EXITED
    text = classified.message if code is classified.code and task.message else _describe_exit(task)
    return Failed(code, f"{name}.{task.slot or task.node_id} {task.state}: {text}")


def _describe_exit(task: Task) -> str:
    """Return the task's message with the common meaning of its exit code."""
    if task.state == "complete":
        return exit_diagnosis.describe_exit_code(0)
    found = _NON_ZERO_EXIT.search(task.message)
    known = exit_diagnosis.exit_code_meaning(int(found["code"])) if found else None
    return f"{task.message}: {known}" if known else task.message or exit_diagnosis.describe_exit_code(task.exit_code)


def placement_failure(name: str, task: Task) -> Failed:
    """Return why no node accepts a task, in the Swarm's words."""
    whys = [why for why in re.split(r"[;(),]", task.message) if " on " in why]
    codes = {next((code for words, code in _PLACEMENT_CODES.items() if words in why), None) for why in whys}
    code = codes.pop() if len(codes) == 1 else None
    return Failed(code or Code.NO_SUITABLE_NODE, f"{name}.{task.slot or task.node_id}: {task.message}")
