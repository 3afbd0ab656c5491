"""The spec of a service, and the progress of an update computed from its tasks."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pydantic import ValidationError

from gateway.docker.container import spec as container_spec
from gateway.docker.engine import services
from gateway.docker.engine.services import Node, Service, Task
from gateway.docker.runtime import Timeouts, Version
from gateway.docker.runtime_factory import choose_kind
from gateway.docker.swarm import convergence, watcher
from gateway.docker.swarm import spec as swarm_spec
from gateway.docker.swarm.convergence import AttemptKey
from gateway.docker.swarm.watcher import ServiceWatcher
from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import Application, Desired
from gateway.model.configuration import Configuration, RuntimeKind
from gateway.model.deployments import Kind
from gateway.model.errors import Code, Failed
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Credentials

DIGEST = Digest("sha256:" + "a" * 64)
VERSION = Version(Reference.parse("ghcr.io/acme/web:v2"), DIGEST, "d1", 2)
SECOND = 10**9


def application(environment: str | None = None, **configuration: Any) -> Application:
    return Application(
        application_id="web",
        name="web",
        app_name="web",
        description=None,
        docker_image="ghcr.io/acme/web:v2",
        registry_url=None,
        credentials=None,
        environment=environment,
        configuration=Configuration.model_validate(configuration),
        other_columns={},
        auto_deploy=True,
        desired=Desired.RUNNING,
        engine_id=None,
        server_id=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def made(base: Mapping[str, Any] | None = None, environment: str | None = None, **configuration: Any) -> Any:
    one = application(environment, **configuration)
    if base is not None:
        image = base["TaskTemplate"]["ContainerSpec"]["Image"]
        one = replace(one, adopted_spec=AdoptedSpec(base, "service", image, "", is_service=True))
    return swarm_spec.build(one, VERSION)


def test_the_image_is_pinned_and_the_labels_identify_the_service() -> None:
    spec = made(labels={"team": "web"})
    container = spec["TaskTemplate"]["ContainerSpec"]
    assert container["Image"] == f"ghcr.io/acme/web:v2@{DIGEST}"
    assert spec["Labels"] == container["Labels"]
    assert {"team": "web", "gateway.deployment": "d1", "gateway.attempt": "2"}.items() <= spec["Labels"].items()


def test_an_update_is_never_left_paused_by_default_and_is_watched_beyond_its_delay() -> None:
    spec = made(updateConfigSwarm={"Parallelism": 2, "Delay": 30 * SECOND})
    assert spec["UpdateConfig"] == {
        "Parallelism": 2,
        "Delay": 30 * SECOND,
        "FailureAction": "rollback",
        "Monitor": 35 * SECOND,
        "Order": "start-first",
    }
    assert spec["RollbackConfig"]["Monitor"] == 5 * SECOND


@pytest.mark.parametrize(
    ("configuration", "order"),
    [
        ({}, "start-first"),
        ({"ports": [{"targetPort": 80, "publishedPort": 80}]}, "start-first"),
        ({"ports": [{"targetPort": 80, "publishedPort": 80, "publishMode": "host"}]}, "stop-first"),
        ({"mounts": [{"source": "data", "target": "/data"}]}, "stop-first"),
        ({"mounts": [{"source": "data", "target": "/data", "readOnly": True}]}, "start-first"),
        ({"mounts": [{"source": "data", "target": "/data"}], "order": "start-first"}, "start-first"),
        ({"updateConfigSwarm": {"Parallelism": 1, "Order": "stop-first"}, "order": "start-first"}, "stop-first"),
    ],
)
def test_stop_first_when_two_cannot_share_a_resource(configuration: dict[str, Any], order: str) -> None:
    assert made(**configuration)["UpdateConfig"]["Order"] == order


def test_the_columns_configure_a_task() -> None:
    spec = made(
        environment="A=1\nB=2",
        command="serve --all",
        args=["--fast"],
        replicas=3,
        memoryLimit="512m",
        cpuReservation="0.5",
        stopGrace=30,
        networks=["front"],
        networkSwarm=[{"Target": "back", "Aliases": ["db"]}],
        placementSwarm={"Constraints": ["node.role==worker"]},
        restartPolicySwarm={"Condition": "on-failure", "MaxAttempts": 3},
        healthCheckSwarm={"Test": ["CMD", "true"], "Interval": SECOND},
        ulimitsSwarm=[{"Name": "nofile", "Soft": 1024, "Hard": 2048}],
        endpointSpecSwarm={"Mode": "dnsrr"},
    )
    task = spec["TaskTemplate"]
    container = task["ContainerSpec"]
    assert (container["Args"], container["Env"]) == (["serve", "--all", "--fast"], ["A=1", "B=2"])
    assert "Command" not in container
    assert (container["StopGracePeriod"], container["Healthcheck"]["Test"]) == (30 * SECOND, ["CMD", "true"])
    assert container["Ulimits"] == [{"Name": "nofile", "Soft": 1024, "Hard": 2048}]
    assert task["Resources"] == {"Limits": {"MemoryBytes": 512 * 1024**2}, "Reservations": {"NanoCPUs": SECOND // 2}}
    assert task["Networks"] == [{"Target": "front"}, {"Target": "back", "Aliases": ["db"]}]
    assert task["Placement"] == {"Constraints": ["node.role==worker"]}
    assert task["RestartPolicy"] == {"Condition": "on-failure", "MaxAttempts": 3}
    assert spec["EndpointSpec"] == {"Mode": "dnsrr"}
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}


def test_adopted_values_stay_where_no_column_is_set() -> None:
    base = {
        "Name": "stack_web",
        "Labels": {"com.docker.stack.namespace": "stack"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "ghcr.io/acme/web:v1@sha256:" + "b" * 64,
                "Env": ["A=0", "OLD=1"],
                "Secrets": [{"SecretID": "s"}],
                "Mounts": [{"Type": "volume", "Source": "kept", "Target": "/kept"}],
            },
            "Placement": {"Constraints": ["node.role==manager"], "Platforms": [{"OS": "linux"}]},
            "Networks": [{"Target": "n1", "Aliases": ["web"]}],
            "ForceUpdate": 3,
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {"Parallelism": 4, "FailureAction": "pause", "Monitor": 5 * SECOND, "Order": "stop-first"},
    }
    spec = made(base, environment="A=1", replicas=2)
    container = spec["TaskTemplate"]["ContainerSpec"]
    assert container["Env"] == ["A=1", "OLD=1"]
    assert container["Secrets"] == [{"SecretID": "s"}]
    assert container["Mounts"] == base["TaskTemplate"]["ContainerSpec"]["Mounts"]  # type: ignore[index]
    assert spec["TaskTemplate"]["Placement"] == {"Constraints": ["node.role==manager"]}
    assert spec["TaskTemplate"]["Networks"] == [{"Target": "n1", "Aliases": ["web"]}]
    assert spec["Labels"]["com.docker.stack.namespace"] == "stack"
    assert (spec["UpdateConfig"]["Parallelism"], spec["UpdateConfig"]["FailureAction"]) == (4, "rollback")
    assert spec["UpdateConfig"]["Order"] == "stop-first"  # it writes a volume
    assert spec["Mode"] == {"Replicated": {"Replicas": 2}}


@pytest.mark.parametrize("mode", [{}, {"modeSwarm": {"Global": {}}}], ids=["replicated", "global"])
def test_a_stopped_and_started_service_has_its_former_mode(mode: dict[str, Any]) -> None:
    spec, one = made(**mode), application(**mode)
    stopped = swarm_spec.scaled(spec, one, running=False)
    assert swarm_spec.is_stopped(stopped)
    again = swarm_spec.scaled(stopped, one, running=True)
    assert not swarm_spec.is_stopped(again)
    assert again["Mode"] == spec["Mode"]


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("updateConfigSwarm", {"Parallelism": 1, "Parallel": 2}),
        ("updateConfigSwarm", {"Parallelism": 1, "FailureAction": "stop"}),
        ("rollbackConfigSwarm", {"Parallelism": 1, "FailureAction": "rollback"}),
        ("modeSwarm", {"ReplicatedJob": {}}),
        ("modeSwarm", {"Global": {}, "Replicated": {"Replicas": 1}}),
        ("restartPolicySwarm", {"Condition": "sometimes"}),
        ("placementSwarm", {"Constraints": "node.role==worker"}),
        ("endpointSpecSwarm", {"Mode": "anycast"}),
        ("ulimitsSwarm", [{"Name": "nofile"}]),
        ("networkSwarm", [{"Target": "../x"}]),
    ],
)
def test_a_meaningless_column_is_rejected_by_name(column: str, wrong: object) -> None:
    with pytest.raises(ValidationError) as refused:
        Configuration.model_validate({column: wrong})
    assert refused.value.errors()[0]["loc"][0] == column


def test_each_spec_carries_the_nodes_credentials() -> None:
    image = Reference.parse("ghcr.io/acme/web:v2")
    assert services.registry_auth_header(image, None) == {}
    header = services.registry_auth_header(image, Credentials("robot", "secret"))["X-Registry-Auth"]
    assert "secret" not in header


# -- where the tasks are


def service(replicas: int = 2, state: str = "", **spec: Any) -> Service:
    labels = {"gateway.deployment": "d1", "gateway.attempt": "1"}
    body = {"Name": "web", "Labels": labels, "Mode": {"Replicated": {"Replicas": replicas}}, **spec}
    return Service("s", "web", 7, body, None, state, "update paused due to failure")


def task(slot: int, state: str, *, of: str = "d1", wanted: str = "running", said: str = "", node: str = "n") -> Task:
    labels = {"gateway.deployment": of, "gateway.attempt": "1"}
    return Task(f"{of}-{slot}-{state}", slot, node, state, wanted, "", said, 0, "", labels)


MARK = AttemptKey("d1", "1")


@pytest.mark.parametrize(
    ("tasks", "state", "down", "converged"),
    [
        ([task(1, "running"), task(2, "running")], "", "", True),
        ([task(1, "running"), task(2, "running")], "updating", "", False),
        ([task(1, "running"), task(2, "starting")], "", "", False),
        ([task(1, "running"), task(2, "running"), task(1, "running", of="d0", wanted="shutdown")], "", "", False),
        ([task(1, "running"), task(2, "running"), task(1, "shutdown", of="d0", wanted="shutdown")], "", "", True),
        ([task(1, "running"), task(2, "running"), task(1, "running", of="d0", node="x")], "", "x", True),
        ([task(1, "running"), task(2, "running", node="x")], "", "x", False),
        ([task(1, "running"), task(2, "running", of="d0")], "", "", False),
        ([task(1, "running"), task(1, "running", node="m")], "", "", False),  # two in one slot
        ([task(1, "running"), task(1, "running", node="m"), task(2, "running")], "", "", True),
    ],
)
def test_converged_is_every_task_in_this_version_and_none_in_another(
    tasks: list[Task], state: str, down: str, converged: bool
) -> None:
    seen = convergence.observe(
        service(state=state), tasks, MARK, nodes={down: Node(down=True, registered_at=datetime(2026, 1, 1, tzinfo=UTC))}
    )
    assert seen.converged is converged


@pytest.mark.parametrize(
    ("second", "crowded"),
    [
        (task(1, "running", node="m"), True),
        (task(1, "starting"), True),
        (task(1, "ready", wanted="ready"), True),  # it waits for its restart delay
        (task(1, "failed", of="d0"), True),  # its restart is yet to come
        (task(1, "failed", of="d0", wanted="shutdown"), False),
        (task(2, "running"), False),
    ],
)
def test_a_slot_is_crowded_while_the_swarm_wants_two_tasks_in_it(second: Task, crowded: bool) -> None:
    """It removes one of them later, and that may be the only one that runs."""
    assert convergence.observe(service(), [task(1, "running"), second], MARK).crowded is crowded


@pytest.mark.parametrize(
    ("tasks", "state", "code", "said"),
    [
        ([task(1, "failed", said="task: non-zero exit (3)")], "updating", Code.EXITED, "web.1 failed: task: non-zero"),
        ([task(1, "rejected", said="No such image: x")], "", Code.NODE_CANNOT_PULL, "No such image"),
        ([task(1, "failed", said="exec format error")], "", Code.WRONG_ARCHITECTURE, "exec format error"),
        ([task(1, "failed", said="task: non-zero exit (1)")], "paused", Code.EXITED, "the Swarm paused"),
        ([], "paused", Code.ENGINE_REFUSED, "update paused due to failure"),
    ],
)
def test_a_failure_has_the_tasks_own_message(tasks: list[Task], state: str, code: Code, said: str) -> None:
    seen = convergence.observe(service(state=state), tasks, MARK)
    with pytest.raises(Failed, match=said) as refused:
        convergence.raise_if_failed(service(state=state), seen, MARK)
    assert refused.value.reason.code is code


def test_failures_within_the_configured_ratio_are_tolerated() -> None:
    chosen = service(state="updating", UpdateConfig={"MaxFailureRatio": 0.5})
    seen = convergence.observe(chosen, [task(1, "failed")], MARK)
    convergence.raise_if_failed(chosen, seen, MARK)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ended(said: str = "task: non-zero exit (143)", created: datetime = NOON) -> Task:
    return replace(task(1, "failed", wanted="shutdown", said=said), created=created)


@pytest.mark.parametrize(
    ("one", "joined", "excused"),
    [
        (ended(), NOON - timedelta(hours=1), False),
        (ended(), NOON + timedelta(seconds=1), True),  # its node's engine was started anew
        (ended("No such container: web.1.x"), NOON - timedelta(hours=1), True),
        (ended("cannot create a swarm scoped network when swarm is not active"), NOON - timedelta(hours=1), True),
        (ended(created=NOON + timedelta(seconds=2)), NOON + timedelta(seconds=1), False),
    ],
)
def test_a_task_that_ended_with_its_nodes_engine_is_no_failure(one: Task, joined: datetime, excused: bool) -> None:
    seen = convergence.observe(service(), [one], MARK, nodes={"n": Node(down=False, registered_at=joined)})
    assert (seen.failed_task is None, seen.restarts, seen.excused == {one.task_id}) == (excused, 1 - excused, excused)
    gave_up = service(state="paused")
    with pytest.raises(Failed) as refused:
        convergence.raise_if_failed(gave_up, seen, MARK)
    assert isinstance(refused.value, convergence.Interrupted) is excused


@pytest.mark.parametrize("state", ["rollback_started", "rollback_completed"])
def test_a_restored_version_may_lose_a_task_with_its_nodes_engine(state: str) -> None:
    lost = ended("cannot create a swarm scoped network when swarm is not active")
    seen = convergence.observe(service(state=state), [lost], MARK)
    assert seen.excused == {lost.task_id}
    convergence.raise_if_failed(service(state=state), seen, MARK)
    with pytest.raises(convergence.Interrupted):  # the Swarm restored another version
        convergence.raise_if_failed(service(state=state), seen, AttemptKey("d2", "1"))


async def test_a_node_that_rejects_tasks_without_end_does_not_extend_the_deadline_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rejected: list[Task] = []

    async def another_rejected(*_: object) -> list[Task]:
        lost = ended("cannot create a swarm scoped network when swarm is not active")
        rejected.append(replace(lost, task_id=str(len(rejected))))
        return rejected

    monkeypatch.setattr(watcher, "POLL_INTERVAL", 0)
    monkeypatch.setattr(services, "inspect", AsyncMock(return_value=service()))
    monkeypatch.setattr(services, "nodes", AsyncMock(return_value={}))
    monkeypatch.setattr(services, "tasks", another_rejected)
    soon = Timeouts(stable_window=0, health_deadline=0.05, pull_stall=0, call_margin=0, kept_for=0)
    with pytest.raises(Failed) as refused:
        await ServiceWatcher(AsyncMock(), "web", soon, 0, AsyncMock()).wait_until_converged(MARK)
    assert refused.value.reason.code is Code.TIMED_OUT


@pytest.mark.parametrize(
    ("said", "unplaced"),
    [
        ("no suitable node (scheduling constraints not satisfied on 3 nodes)", True),
        ("no suitable node (1 node not available for new tasks; insufficient resources on 2 nodes)", True),
        ("no suitable node (3 nodes not available for new tasks)", False),  # the managers have just begun anew
    ],
)
def test_a_task_waits_for_nodes_that_are_all_away(said: str, unplaced: bool) -> None:
    seen = convergence.observe(service(), [task(1, "pending", said=said)], MARK)
    assert (seen.unplaced is not None, seen.lagging is not None) == (unplaced, True)


def test_a_task_with_another_image_is_another_version_despite_its_labels() -> None:
    marked = {**task(1, "running").labels, "gateway.image": "web:v1@sha256:1"}
    told = [replace(task(slot, "running"), labels=marked, image="web:v1@sha256:1") for slot in (1, 2)]
    assert convergence.observe(service(), told, MARK).converged
    by_hand = [replace(one, image="other") for one in told]
    seen = convergence.observe(service(), by_hand, MARK)
    assert (seen.running, len(seen.leftover)) == (0, 2)
    template = {"ContainerSpec": {"Image": "other"}}
    changed = service(Labels=marked, TaskTemplate=template)
    with pytest.raises(Failed, match="somebody else set the image of web to other"):
        convergence.raise_if_failed(changed, seen, MARK)


# -- which of the two it is


@pytest.mark.parametrize(
    ("configuration", "present", "manager", "kind", "expected"),
    [
        ({}, None, False, Kind.DEPLOY, RuntimeKind.CONTAINER),
        ({}, None, True, Kind.DEPLOY, RuntimeKind.SERVICE),
        ({}, RuntimeKind.CONTAINER, True, Kind.DEPLOY, RuntimeKind.CONTAINER),
        ({"runtime": "auto"}, RuntimeKind.SERVICE, True, Kind.DEPLOY, RuntimeKind.SERVICE),
        ({"runtime": "container"}, None, True, Kind.DEPLOY, RuntimeKind.CONTAINER),
        ({"runtime": "service"}, None, False, Kind.DELETE, RuntimeKind.CONTAINER),
        ({"runtime": "service"}, RuntimeKind.CONTAINER, True, Kind.STOP, RuntimeKind.CONTAINER),
    ],
)
def test_the_kind_is_the_configured_one_else_the_present_one_else_the_engines(
    configuration: dict[str, Any],
    present: RuntimeKind | None,
    manager: bool,
    kind: Kind,
    expected: RuntimeKind,
) -> None:
    making = kind not in {Kind.STOP, Kind.DELETE}
    assert choose_kind(application(**configuration), present, swarm_manager=manager, making=making) is expected


@pytest.mark.parametrize(
    ("configuration", "present", "manager", "code"),
    [
        ({"replicas": 2}, None, False, Code.NO_SWARM),
        ({"runtime": "service"}, None, False, Code.NO_SWARM),
        ({"modeSwarm": {"Global": {}}, "runtime": "container"}, None, True, Code.NO_SWARM),
        ({"runtime": "service"}, RuntimeKind.CONTAINER, True, Code.BAD_CONFIGURATION),
    ],
)
def test_an_impossible_kind_is_rejected_with_a_remedy(
    configuration: dict[str, Any], present: RuntimeKind | None, manager: bool, code: Code
) -> None:
    with pytest.raises(Failed) as refused:
        choose_kind(application(**configuration), present, swarm_manager=manager, making=True)
    assert refused.value.reason.code is code


def adopted(**changes: Any) -> dict[str, Any]:
    """Return the spec of a service as the Engine tells it."""
    template = {"ContainerSpec": {"Image": "ghcr.io/acme/web:v1"}, **changes.pop("TaskTemplate", {})}
    return {"Name": "web", "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 1}}, **changes}


HOSTS = {"Networks": [{"Target": "id-of-host"}]}


@pytest.mark.parametrize(
    ("base", "configuration", "order"),
    [
        (adopted(TaskTemplate=HOSTS), {}, "stop-first"),
        (adopted(TaskTemplate=HOSTS, Mode={"Global": {}}), {}, "stop-first"),
        (adopted(Networks=[{"Target": "id-of-host"}]), {}, "stop-first"),
        (adopted(TaskTemplate=HOSTS, UpdateConfig={"Parallelism": 1, "Order": "stop-first"}), {}, "stop-first"),
        (adopted(UpdateConfig={"Parallelism": 1, "Order": "stop-first"}), {}, "stop-first"),
        (adopted(TaskTemplate=HOSTS, UpdateConfig={"Parallelism": 1, "Order": "start-first"}), {}, "start-first"),
        (adopted(UpdateConfig={"Order": "stop-first"}), {"order": "start-first"}, "start-first"),
        (adopted(), {}, "start-first"),
        (None, {"networks": ["host"]}, "stop-first"),
        (None, {"networkSwarm": [{"Target": "host"}]}, "stop-first"),
        (None, {"networks": ["host"], "order": "start-first"}, "start-first"),
    ],
)
def test_the_adopted_order_is_kept_and_exclusive_resources_force_stop_first(
    base: dict[str, Any] | None, configuration: dict[str, Any], order: str
) -> None:
    one = application(**configuration)
    if base is not None:
        one = replace(one, adopted_spec=AdoptedSpec(base, "service", "ghcr.io/acme/web:v1", "", is_service=True))
    for networks in ({}, {"host": "id-of-host"}):
        spec = swarm_spec.build(one, VERSION, host_network_ids=["id-of-host"], networks=networks)
        assert (spec["UpdateConfig"]["Order"], spec["RollbackConfig"]["Order"]) == (order, order)


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (adopted(), None),
        (adopted(Mode={"ReplicatedJob": {"MaxConcurrent": 1}}), "it is a job"),
        (adopted(Mode={"GlobalJob": {}}), "it is a job"),
        (adopted(TaskTemplate={"ContainerSpec": None}), "its tasks are not containers"),
        (
            adopted(Mode={"Global": {}}, TaskTemplate=HOSTS, UpdateConfig={"Order": "start-first"}),
            "holds the ports of its node, being on the host's network; set the update order to stop-first",
        ),
        (
            adopted(
                Mode={"Global": {}},
                EndpointSpec={"Ports": [{"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]},
                UpdateConfig={"Order": "start-first"},
            ),
            "holds port 8080 of its node",
        ),
        (adopted(Mode={"Global": {}}, TaskTemplate=HOSTS, UpdateConfig={"Order": "stop-first"}), None),
    ],
)
def test_a_service_that_cannot_be_updated_names_the_reason(base: dict[str, Any], why: str | None) -> None:
    told = swarm_spec.update_blocker(base, ["id-of-host"])
    assert (told is None) == (why is None)
    assert (why or "") in (told or "")


def test_unconfigured_values_are_left_to_the_engine() -> None:
    decided = {"LogDriver", "RestartPolicy", "Resources", "Networks"}
    assert decided.isdisjoint(name for name, value in made(adopted())["TaskTemplate"].items() if value)
    assert made()["TaskTemplate"].keys() & decided == {"RestartPolicy"}
    own = {"Name": "json-file", "Options": {"max-size": "1m"}}
    assert made(adopted(TaskTemplate={"LogDriver": own}))["TaskTemplate"]["LogDriver"] == own


def test_the_hash_is_stable_across_the_change_of_log_options() -> None:
    assert swarm_spec.spec_hash(application()) == "6e971141eab6a1a4daec17ebdbe83efa"
    assert container_spec.spec_hash(application()) == "38fc36f0204f446afa3d2485e093a49b"
