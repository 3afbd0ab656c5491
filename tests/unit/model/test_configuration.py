"""The configuration of an application: each field in every form, and the request to the engine for it."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.docker.container import spec as container_spec
from gateway.docker.engine.labels import labelled_restart_policy
from gateway.docker.runtime import Version
from gateway.docker.swarm import file_secrets
from gateway.docker.swarm import spec as swarm_spec
from gateway.model import configuration_rules
from gateway.model.applications import Application, Desired, parse_environment
from gateway.model.configuration import Configuration
from gateway.model.configuration_diff import Change, Running, pending_changes
from gateway.model.errors import InvalidInput
from gateway.model.reference import Digest, Reference

MIB = 1024**2
DIGEST = Digest("sha256:" + "a" * 64)
VERSION = Version(Reference.parse("acme/web:v2"), DIGEST, "d1", 1)
FILE = {"type": "file", "mountPath": "/etc/web.conf", "content": "port = 80"}


def application(environment: str | None = None, image: str = "acme/web:v2", **configuration: Any) -> Application:
    return Application(
        application_id="web",
        name="web",
        app_name="web",
        description=None,
        docker_image=image,
        registry_url=None,
        credentials=None,
        environment=environment,
        configuration=Configuration.model_validate(configuration),
        other_columns={},
        auto_deploy=True,
        desired=Desired.RUNNING,
        server_id=None,
        engine_id=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def container(environment: str | None = None, **configuration: Any) -> Any:
    return container_spec.create_body(application(environment, **configuration), VERSION)


def task(environment: str | None = None, **configuration: Any) -> Any:
    return swarm_spec.build(application(environment, **configuration), VERSION)["TaskTemplate"]


# -- the examples of the documentation

PRODUCTION: dict[str, Any] = {
    "memoryLimit": "2048MB",
    "cpuLimit": "2",
    "replicas": 3,
    "ports": [{"targetPort": 3000, "publishedPort": 3000}],
}
PRODUCTION_ENV = "DATABASE_URL=postgresql://... \n REDIS_URL=redis://..."
STAGING: dict[str, Any] = {"memoryLimit": "512MB", "cpuLimit": "0.5", "replicas": 1}
REDIS: dict[str, Any] = {
    "command": "redis-server --appendonly yes",
    "volumes": [{"source": "redis-data", "target": "/data", "type": "volume"}],
    "memoryLimit": "256MB",
}


def test_the_production_example_is_a_service_of_three_with_its_port_on_the_mesh() -> None:
    made = swarm_spec.build(application(PRODUCTION_ENV, **PRODUCTION), VERSION)
    assert made["Mode"] == {"Replicated": {"Replicas": 3}}
    limits = made["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"MemoryBytes": 2048 * MIB, "NanoCPUs": 2 * 10**9}
    variables = ["DATABASE_URL=postgresql://...", "REDIS_URL=redis://..."]
    assert made["TaskTemplate"]["ContainerSpec"]["Env"] == variables
    assert made["EndpointSpec"]["Ports"] == [
        {"Protocol": "tcp", "TargetPort": 3000, "PublishedPort": 3000, "PublishMode": "ingress"}
    ]


def test_the_staging_example_has_half_a_processor() -> None:
    made = container("NODE_ENV=staging \n DEBUG=true", **STAGING)
    assert (made["HostConfig"]["Memory"], made["HostConfig"]["NanoCpus"]) == (512 * MIB, 5 * 10**8)
    assert made["Env"] == ["NODE_ENV=staging", "DEBUG=true"]


def test_the_redis_example_keeps_the_entrypoint_and_has_its_volume() -> None:
    made = container(**REDIS)
    assert made["Cmd"] == ["redis-server", "--appendonly", "yes"]
    assert "Entrypoint" not in made
    (mount,) = made["HostConfig"]["Mounts"]
    assert (mount["Type"], mount["Source"], mount["Target"]) == ("volume", "redis-data", "/data")
    assert made["HostConfig"]["Memory"] == 256 * MIB


# -- forms

ONE_LINE = r"DATABASE_URL=postgresql://... \n REDIS_URL=redis://..."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE_LINE, {"DATABASE_URL": "postgresql://...", "REDIS_URL": "redis://..."}),
        (r"A=1\nexport B=2", {"A": "1", "B": "2"}),
        (r'A="one\nB=2"\nC=3', {"A": "one\nB=2", "C": "3"}),
        (r"A=it's\nB=2", {"A": "it's", "B": "2"}),
        (r"A=C:\new", {"A": r"C:\new"}),
        ("A=1\\nB=2\nC=3", {"A": r"1\nB=2", "C": "3"}),
        ("# why\nexport A=1 # because\n\nB='x # y'\nC=", {"A": "1", "B": "x # y", "C": ""}),
        ('A="one\ntwo"\nB=2', {"A": "one\ntwo", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ],
)
def test_variables_are_read_in_lines_and_in_one(text: str, expected: dict[str, str]) -> None:
    assert parse_environment(text) == expected


@pytest.mark.parametrize("limit", ["512m", "512MB", "512MiB", "512Mi", "0.5g", ".5g", "536870912", 536870912])
def test_an_amount_of_memory_is_text_or_a_number(limit: object) -> None:
    assert container(memoryLimit=limit)["HostConfig"]["Memory"] == 512 * MIB


@pytest.mark.parametrize("limit", ["1.5", 1.5, "1500000000", 1_500_000_000])
def test_processors_are_text_or_a_number(limit: object) -> None:
    assert container(cpuLimit=limit)["HostConfig"]["NanoCpus"] == 1_500_000_000


SAME = [
    {"type": "bind", "source": "/srv", "target": "/data"},
    {"type": "bind", "hostPath": "/srv", "mountPath": "/data", "volumeName": None, "filePath": None, "content": None},
    {"type": "bind", "hostPath": "/srv", "mountPath": "/data", "source": "/srv", "target": "/data", "postgresId": None},
]


@pytest.mark.parametrize("written", SAME)
def test_a_mount_is_written_shortly_or_as_a_row(written: dict[str, Any]) -> None:
    (mount,) = Configuration.model_validate({"mounts": [written]}).mounts
    assert (mount.type, mount.source, mount.target) == ("bind", "/srv", "/data")


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"mounts": [{"type": "bind", "hostPath": "relative", "mountPath": "/x"}]}, ("mounts", 0, "hostPath")),
        ({"mounts": [{"volumeName": "../x", "target": "/x"}]}, ("mounts", 0, "volumeName")),
        ({"mounts": [{"source": "a", "volumeName": "b", "target": "/x"}]}, ("mounts", 0)),
        ({"mounts": [{"source": "a", "target": "/"}]}, ("mounts", 0, "target")),
        ({"mounts": [{"source": "a", "target": "/x", "content": "x"}]}, ("mounts", 0, "content")),
        ({"mounts": [{"type": "file", "mountPath": "/etc/"}]}, ("mounts", 0, "mountPath")),
        ({"mounts": [{**FILE, "content": "x" * 500_001}]}, ("mounts", 0, "content")),
        ({"ports": [{"targetPort": 1, "publishedPort": 2, "hostIp": "here"}]}, ("ports", 0, "hostIp")),
        ({"ports": [{"targetPort": 1, "publishedPort": 2, "protocol": "icmp"}]}, ("ports", 0, "protocol")),
        ({"tmpfs": ["tmp"]}, ("tmpfs", 0, "target")),
        ({"tmpfs": [{"target": "/tmp", "size": "big"}]}, ("tmpfs", 0, "size")),
        ({"capAdd": ["everything"]}, ("capAdd", 0)),
        ({"extraHosts": ["db"]}, ("extraHosts", 0)),
        ({"user": "a b"}, ("user",)),
        ({"workingDir": "srv"}, ("workingDir",)),
        ({"hostname": "-x"}, ("hostname",)),
        ({"memoryLimit": "9999999p"}, ("memoryLimit",)),
    ],
    ids=lambda one: str(one)[:70],
)
def test_an_invalid_value_is_rejected_with_its_path(wrong: dict[str, Any], place: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        Configuration.model_validate(wrong)
    assert refused.value.errors()[0]["loc"] == place


PORT = {"targetPort": 80, "publishedPort": 8080}
VOLUME = {"source": "data", "target": "/data"}


@pytest.mark.parametrize(
    ("together", "field"),
    [
        ({"ports": [PORT, {**PORT, "targetPort": 81}]}, "ports.1.publishedPort"),
        ({"ports": [PORT, {**PORT, "hostIp": "127.0.0.1"}]}, "ports.1.publishedPort"),
        ({"ports": [{**PORT, "hostIp": "127.0.0.1"}], "runtime": "service"}, "ports.0.hostIp"),
        ({"mounts": [VOLUME, {"source": "other", "target": "/data/"}]}, "mounts.1.target"),
        ({"mounts": [VOLUME], "tmpfs": ["/data"]}, "tmpfs.0.target"),
        ({"mounts": [VOLUME, {**FILE, "mountPath": "/data/x"}]}, "mounts.1.target"),
        ({"mounts": [FILE], "readOnly": True}, "mounts.0.target"),
        ({"mounts": [{**FILE, "content": ""}], "runtime": "service"}, "mounts.0.content"),
        ({"memoryLimit": "64m", "memoryReservation": "65m"}, "memoryReservation"),
        ({"cpuLimit": "1", "cpuReservation": 2}, "cpuReservation"),
        ({"ulimitsSwarm": [{"Name": "files", "Soft": 1, "Hard": 1}]}, "ulimitsSwarm.0.Name"),
        ({"ulimitsSwarm": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "ulimitsSwarm.0.Soft"),
        ({"networkSwarm": [{"Target": "front"}, {"Aliases": ["db"]}]}, "networkSwarm.1.Target"),
        ({"args": ["x"] * 1001}, "args"),
        ({"extraHosts": [f"h{number}:10.0.0.1" for number in range(1001)]}, "extraHosts"),
        ({"mounts": [{**FILE, "mountPath": f"/{number}", "content": "x" * 490_000} for number in range(20)]}, None),
        ({"endpointSpecSwarm": {"Ports": [{"PublishMode": "host"}]}}, "endpointSpecSwarm.Ports.0.TargetPort"),
    ],
    ids=lambda one: str(one)[:70],
)
def test_contradicting_fields_are_rejected_with_the_field(together: dict[str, Any], field: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        configuration_rules.validate(Configuration.model_validate(together))
    assert refused.value.field == field


@pytest.mark.parametrize(
    "together",
    [
        {"ports": [PORT, {**PORT, "protocol": "udp"}]},
        {"ports": [{**PORT, "hostIp": "127.0.0.1"}, {**PORT, "hostIp": "10.0.0.1"}]},
        {"mounts": [VOLUME, {**FILE, "mountPath": "/data/x"}], "readOnly": True, "runtime": "service"},
        {"ulimitsSwarm": [{"Name": "memlock", "Soft": -1, "Hard": -1}]},
    ],
    ids=lambda one: str(one)[:70],
)
def test_compatible_fields_are_accepted(together: dict[str, Any]) -> None:
    configuration_rules.validate(Configuration.model_validate(together))


def test_a_part_keeps_its_name_as_long_as_it_stays_the_same() -> None:
    first = Configuration.model_validate({"ports": [PORT], "mounts": [VOLUME, FILE]}).with_ids()
    sent = {"ports": [{**PORT, "publishedPort": 9090}, PORT], "mounts": [FILE, VOLUME]}
    second = Configuration.model_validate(sent).with_ids(first)
    assert second.ports[1] == first.ports[0]
    assert second.ports[0].port_id not in {None, first.ports[0].port_id}
    assert second.mounts == first.mounts[::-1]
    renamed = {"ports": [{**PORT, "publishedPort": 1, "portId": first.ports[0].port_id}, {**PORT, "portId": "mine"}]}
    third = Configuration.model_validate(renamed).with_ids(first)
    assert third.ports[0].port_id == first.ports[0].port_id
    assert third.ports[1].port_id not in {"mine", first.ports[0].port_id}
    assert container_spec.spec_hash(application(ports=[PORT])) == container_spec.spec_hash(
        application(ports=[first.ports[0].model_dump(by_alias=True)])
    )


# -- the same words for a container and for a service

EVERYTHING: dict[str, Any] = {
    "user": "1000:1000",
    "workingDir": "/srv",
    "hostname": "web-1",
    "init": True,
    "readOnly": True,
    "capAdd": ["NET_ADMIN"],
    "capDrop": ["ALL"],
    "extraHosts": ["db:10.0.0.5"],
    "tmpfs": ["/tmp", {"target": "/dev/shm", "size": "64m"}],
    "ulimitsSwarm": [{"Name": "nofile", "Soft": 1024, "Hard": 2048}],
    "stopGrace": 30,
    "memoryReservation": "64m",
}
TMPFS = [
    {"Type": "tmpfs", "Target": "/tmp"},
    {"Type": "tmpfs", "Target": "/dev/shm", "TmpfsOptions": {"SizeBytes": 64 * MIB}},
]


def test_a_container_has_all_that_was_chosen() -> None:
    made = container(**EVERYTHING)
    host = made["HostConfig"]
    chosen = {"User": "1000:1000", "WorkingDir": "/srv", "Hostname": "web-1", "StopTimeout": 30}
    assert chosen.items() <= made.items()
    assert (host["Init"], host["ReadonlyRootfs"], host["MemoryReservation"]) == (True, True, 64 * MIB)
    assert (host["CapAdd"], host["CapDrop"], host["ExtraHosts"]) == (["NET_ADMIN"], ["ALL"], ["db:10.0.0.5"])
    assert (host["Mounts"], host["Ulimits"]) == (TMPFS, EVERYTHING["ulimitsSwarm"])


def test_a_service_has_all_that_was_chosen() -> None:
    made = task(**EVERYTHING)
    one = made["ContainerSpec"]
    chosen = {"User": "1000:1000", "Dir": "/srv", "Hostname": "web-1", "StopGracePeriod": 30 * 10**9}
    assert chosen.items() <= one.items()
    assert (one["Init"], one["ReadOnly"], one["Hosts"]) == (True, True, ["10.0.0.5 db"])
    assert (one["CapabilityAdd"], one["CapabilityDrop"]) == (["NET_ADMIN"], ["ALL"])
    assert (one["Mounts"], one["Ulimits"]) == (TMPFS, EVERYTHING["ulimitsSwarm"])
    assert made["Resources"]["Reservations"] == {"MemoryBytes": 64 * MIB}


@pytest.mark.parametrize(
    ("chosen", "policy", "condition"),
    [
        ({}, {"Name": "unless-stopped"}, "any"),
        ({"Condition": "any", "MaxAttempts": 3}, {"Name": "unless-stopped"}, "any"),
        ({"Condition": "none"}, {"Name": "no"}, "none"),
        ({"Condition": "on-failure"}, {"Name": "on-failure", "MaximumRetryCount": 0}, "on-failure"),
        ({"Condition": "on-failure", "MaxAttempts": 3}, {"Name": "on-failure", "MaximumRetryCount": 3}, "on-failure"),
    ],
)
def test_a_restart_policy_means_the_same_for_both(
    chosen: dict[str, Any], policy: dict[str, Any], condition: str
) -> None:
    made = container(restartPolicySwarm=chosen)
    assert made["HostConfig"]["RestartPolicy"] == policy
    assert labelled_restart_policy(made["Labels"])["Name"] == policy["Name"]
    assert task(restartPolicySwarm=chosen)["RestartPolicy"]["Condition"] == condition


def test_networks_of_both_columns_are_joined_with_their_aliases() -> None:
    both: dict[str, Any] = {"networks": ["front", "back"], "networkSwarm": [{"Target": "back", "Aliases": ["db"]}]}
    assert container_spec.endpoints(application(**both)) == {"front": {}, "back": {"Aliases": ["db"]}}
    assert task(**both)["Networks"] == [{"Target": "front"}, {"Target": "back", "Aliases": ["db"]}]


def test_a_configuration_saved_without_network_or_port_is_still_readable() -> None:
    saved: dict[str, Any] = {"networkSwarm": [{}], "endpointSpecSwarm": {"Ports": [{"PublishMode": "host"}]}}
    assert container_spec.endpoints(application(**saved)) == {}
    assert task(**saved).get("Networks", []) == []
    assert container_spec.spec_hash(application(**saved)) == container_spec.spec_hash(application())


def test_ports_are_published_as_they_are_for_a_container() -> None:
    ports = [
        {**PORT, "hostIp": "127.0.0.1", "publishMode": "host"},
        {"targetPort": 53, "publishedPort": 53, "protocol": "udp"},
    ]
    assert container(ports=ports)["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostPort": "8080", "HostIp": "127.0.0.1"}],
        "53/udp": [{"HostPort": "53"}],
    }
    instead = {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 9090, "PublishMode": "host"}]}
    bindings = container(ports=ports, endpointSpecSwarm=instead)["HostConfig"]["PortBindings"]
    assert bindings == {"80/tcp": [{"HostPort": "9090"}]}


# -- files


def test_file_content_is_in_no_request_or_label_and_changes_the_hash() -> None:
    one, other = application(mounts=[FILE]), application(mounts=[{**FILE, "content": "port = 81"}])
    assert container_spec.spec_hash(one) != container_spec.spec_hash(other)
    assert swarm_spec.spec_hash(one) != swarm_spec.spec_hash(other)
    for made in (container_spec.create_body(one, VERSION), swarm_spec.build(one, VERSION)):
        assert "port = 80" not in str(made)
    assert "port = 80" not in repr(one)


def test_a_service_gets_a_file_as_a_secret_of_its_own_name() -> None:
    one = application(mounts=[FILE])
    name = file_secrets.secret_name(one, one.configuration.files[0])
    made = swarm_spec.build(one, VERSION, secrets={name: "id"})
    assert made["TaskTemplate"]["ContainerSpec"]["Secrets"] == [
        {"SecretID": "id", "SecretName": name, "File": {"Name": "/etc/web.conf", "UID": "0", "GID": "0", "Mode": 0o444}}
    ]
    assert file_secrets.secret_ids([made, None]) == {"id"}


# -- what a deployment would change


def ran(**configuration: Any) -> Running:
    reference = Reference.parse("acme/web:v1").with_digest(DIGEST)
    return Running(reference, application("A=1\nB=2\nC=3", image="acme/web:v1", **configuration), None)


def test_pending_changes_contain_no_secrets() -> None:
    wanted = application(
        "A=1\nB=20\nD=4", ports=[PORT], memoryLimit="64m", kept=3, mounts=[{**FILE, "content": "port = 81"}]
    )
    found = pending_changes(wanted, ran(mounts=[FILE], replicas=2))
    assert found[0] == Change("dockerImage", "docker.io/acme/web:v1", "docker.io/acme/web:v2")
    assert found[1] == Change("env", ["A", "B", "C"], "D added, B changed, C removed")
    assert [one.field for one in found[2:]] == ["memoryLimit", "replicas", "ports", "mounts"]
    assert (found[2].runs, found[2].wanted) == (None, "64m")
    assert found[-1].wanted[0]["content"] == "changed"
    assert "port = 8" not in str(found)


def test_where_nothing_ran_yet_all_that_is_set_is_pending() -> None:
    found = pending_changes(application("A=1", memoryLimit="64m"), None)
    assert [(one.field, one.runs) for one in found] == [("dockerImage", None), ("env", []), ("memoryLimit", None)]


def test_the_same_tag_and_configuration_change_nothing() -> None:
    serving = ran(ports=[{**PORT, "portId": "one"}])
    assert pending_changes(application("A=1\nB=2\nC=3", image="acme/web:v1", ports=[PORT]), serving) == []
