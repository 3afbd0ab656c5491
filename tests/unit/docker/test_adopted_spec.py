"""The creator's configuration of a container is separated from the image's and the engine's values."""

from typing import Any

import pytest

from gateway.docker.container import adopted_spec
from gateway.model.adoption import AdoptedSpec

ID = "a1b2c3d4e5f6" + "0" * 52
VOLUME = "f" * 64
IMAGE: dict[str, Any] = {
    "Env": ["PATH=/bin", "MODE=image"],
    "Cmd": ["serve"],
    "Entrypoint": ["/entry"],
    "Labels": {"org.opencontainers.image.version": "1"},
    "Healthcheck": {"Test": ["CMD", "check"], "Interval": 10, "Retries": 3},
    "User": "app",
    "WorkingDir": "/srv",
    "StopSignal": "SIGQUIT",
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/var/data": {}},
}


def base(
    config: dict[str, Any] | None = None,
    host: dict[str, Any] | None = None,
    networks: dict[str, Any] | None = None,
    **given: Any,
) -> AdoptedSpec:
    """Return a container that was run with nothing but its image, save for what is given."""
    found = {
        "Config": {**IMAGE, "Hostname": ID[:12], "Image": "app", **(config or {})},
        "HostConfig": {"NetworkMode": "default", **(host or {})},
        "NetworkSettings": {"Networks": networks if networks is not None else {"bridge": {}}},
    }
    return AdoptedSpec(found, ID, "app", "sha256:1", image_config=IMAGE, **given)


def test_the_images_own_values_are_not_pinned() -> None:
    assert adopted_spec.user_config(base()) == {"HostConfig": {"NetworkMode": "default"}}


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ({"Env": ["PATH=/bin", "MODE=mine", "NEW=1"]}, {"Env": ["MODE=mine", "NEW=1"]}),
        ({"Env": ["PATH=/bin", "MODE=image", "UNSET"]}, {"Env": ["UNSET"]}),
        ({"Cmd": ["work"]}, {"Cmd": ["work"]}),
        ({"Entrypoint": ["/mine"], "Cmd": ["serve"]}, {"Entrypoint": ["/mine"], "Cmd": ["serve"]}),
        ({"Entrypoint": ["/mine"], "Cmd": None}, {"Entrypoint": ["/mine"]}),
        ({"Entrypoint": None, "Cmd": ["sh"]}, {"Entrypoint": [""], "Cmd": ["sh"]}),
        (
            {"Labels": {"org.opencontainers.image.version": "1", "team": "web"}},
            {"Labels": {"team": "web"}},
        ),
        ({"Labels": {"org.opencontainers.image.version": "x"}}, {"Labels": {"org.opencontainers.image.version": "x"}}),
        ({"Healthcheck": {**IMAGE["Healthcheck"], "Interval": 5}}, {"Healthcheck": {"Interval": 5}}),
        ({"Healthcheck": {"Test": ["NONE"]}}, {"Healthcheck": {"Test": ["NONE"]}}),
        ({"User": "1000:1000"}, {"User": "1000:1000"}),
        ({"WorkingDir": "/tmp"}, {"WorkingDir": "/tmp"}),
        ({"StopSignal": "SIGINT"}, {"StopSignal": "SIGINT"}),
        ({"StopTimeout": 0}, {"StopTimeout": 0}),
        ({"ExposedPorts": {"80/tcp": {}, "81/udp": {}}}, {"ExposedPorts": {"81/udp": {}}}),
        ({"Volumes": {"/var/data": {}, "/mine": {}}}, {"Volumes": {"/mine": {}}}),
        ({"Tty": True, "OpenStdin": True}, {"Tty": True, "OpenStdin": True}),
        ({"MacAddress": "02:42:ac:11:00:99"}, {"MacAddress": "02:42:ac:11:00:99"}),
        ({"Hostname": "mine", "Domainname": "example.org"}, {"Hostname": "mine", "Domainname": "example.org"}),
        ({"OfTheNextEngine": {"a": 1}}, {"OfTheNextEngine": {"a": 1}}),
    ],
)
def test_the_creators_values_are_kept(config: dict[str, Any], chosen: dict[str, Any]) -> None:
    body = adopted_spec.user_config(base(config))
    del body["HostConfig"]
    assert body == chosen


def test_everything_is_kept_where_the_image_is_no_longer_known() -> None:
    unknown = AdoptedSpec(base().found, ID, "app", "sha256:1")
    assert adopted_spec.user_config(unknown)["Env"] == IMAGE["Env"]


def test_every_field_of_the_host_configuration_is_kept_the_unknown_ones_too() -> None:
    host = {
        "NetworkMode": "default",
        "DeviceRequests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}],
        "Mounts": [
            {
                "Type": "volume",
                "Source": "data",
                "Target": "/data",
                "VolumeOptions": {"Subpath": "a/b", "NoCopy": True},
            },
            {"Type": "bind", "Source": "/srv", "Target": "/srv", "BindOptions": {"Propagation": "rslave"}},
            {"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448}},
        ],
        "OfTheNextEngine": [{"a": None}],
        "OomKillDisable": None,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    }
    assert adopted_spec.user_config(base(host=host))["HostConfig"] == host


def test_a_host_name_the_engine_made_up_is_not_kept() -> None:
    on_host = base({"Hostname": "machine"}, {"NetworkMode": "host"}, {"host": {}}, host_name="machine")
    assert "Hostname" not in adopted_spec.user_config(base())
    assert "Hostname" not in adopted_spec.user_config(on_host)


def test_a_container_on_another_containers_network_has_no_network_settings() -> None:
    joined = base(
        {
            "Hostname": "of-the-other",
            "Domainname": "d",
            "ExposedPorts": {"1/tcp": {}},
            "MacAddress": "02:42:00:00:00:01",
        },
        {"NetworkMode": f"container:{VOLUME}"},
        {},
    )
    assert adopted_spec.user_config(joined) == {"HostConfig": {"NetworkMode": f"container:{VOLUME}"}}
    assert adopted_spec.endpoints(joined) == {}


def test_networks_are_kept_with_what_was_configured_and_nothing_the_engine_made_up() -> None:
    seen = {
        "NetworkID": "n1",
        "EndpointID": "e1",
        "Gateway": "10.0.0.1",
        "IPAddress": "10.0.0.9",
        "IPPrefixLen": 24,
        "MacAddress": "02:42:0a:00:00:09",
        "DNSNames": ["web", ID[:12]],
        "Links": None,
    }
    networks = {
        "back": {**seen, "IPAMConfig": {}, "Aliases": [ID[:12]]},
        "front": {
            **seen,
            "IPAMConfig": {"IPv4Address": "10.0.0.9", "LinkLocalIPs": ["169.254.1.1"]},
            "Aliases": ["web", ID[:12], "www"],
            "DriverOpts": {"a": "b"},
            "GwPriority": 7,
        },
    }
    found = adopted_spec.endpoints(base(host={"NetworkMode": "front"}, networks=networks))
    assert list(found) == ["front", "back"]
    assert found == {
        "front": {
            "IPAMConfig": {"IPv4Address": "10.0.0.9", "LinkLocalIPs": ["169.254.1.1"]},
            "Aliases": ["web", "www"],
            "DriverOpts": {"a": "b"},
            "GwPriority": 7,
        },
        "back": {},
    }


@pytest.mark.parametrize(
    ("mode", "networks", "expected"),
    [
        ("default", {"bridge": {}}, "default"),
        ("front", {"front": {}, "back": {}}, "front"),
        ("0123456789ab", {"back": {"NetworkID": "ff"}, "front": {"NetworkID": "0123456789abcdef"}}, "front"),
        ("left", {"back": {"NetworkID": "ff"}}, "back"),
        ("left", {}, "none"),
    ],
)
def test_the_network_mode_is_a_network_the_container_is_on(mode: str, networks: dict[str, Any], expected: str) -> None:
    body = adopted_spec.user_config(base(host={"NetworkMode": mode}, networks=networks))
    assert body["HostConfig"]["NetworkMode"] == expected


def mounted(*mounts: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [{"Type": kind, "Name": name, "Destination": at, "RW": True} for kind, name, at in mounts]


def test_an_anonymous_volume_is_mounted_again_at_its_path() -> None:
    body = adopted_spec.carry_volumes(
        {"HostConfig": {"Binds": ["named:/named"]}}, mounted(("volume", VOLUME, "/var/data"))
    )
    assert body["HostConfig"] == {
        "Binds": ["named:/named"],
        "Mounts": [{"Type": "volume", "Source": VOLUME, "Target": "/var/data", "ReadOnly": False}],
    }


@pytest.mark.parametrize(
    "host",
    [
        {"Mounts": [{"Type": "volume", "Target": "/var/data/"}]},
        {"Mounts": [{"Type": "volume", "Source": "", "Target": "/var/data/"}]},
    ],
)
def test_a_mount_without_a_source_gets_the_volume_it_had(host: dict[str, Any]) -> None:
    mounts = adopted_spec.carry_volumes({"HostConfig": host}, mounted(("volume", VOLUME, "/var/data")))["HostConfig"][
        "Mounts"
    ]
    assert mounts == [{"Type": "volume", "Source": VOLUME, "Target": "/var/data/"}]


def test_a_bind_without_a_source_is_replaced_with_its_volume() -> None:
    host = adopted_spec.carry_volumes({"HostConfig": {"Binds": ["/data"]}}, mounted(("volume", VOLUME, "/data")))[
        "HostConfig"
    ]
    assert (host["Binds"], [mount["Source"] for mount in host["Mounts"]]) == ([], [VOLUME])


def test_named_volumes_and_places_that_something_else_is_mounted_at_are_left_alone() -> None:
    body = {"HostConfig": {"Binds": ["/srv:/var/data:ro"], "Tmpfs": {"/run": ""}}}
    seen = mounted(("volume", VOLUME, "/var/data"), ("volume", VOLUME, "/run"), ("volume", "dropped", "/old"))
    assert adopted_spec.carry_volumes(body, seen)["HostConfig"]["Mounts"] == []


def test_columns_are_merged_over_adopted_values() -> None:
    found = {
        "Env": ["A=1", "B=1"],
        "Labels": {"a": "1", "b": "1"},
        "Cmd": ["found"],
        "HostConfig": {
            "Memory": 1,
            "NanoCpus": 7,
            "PortBindings": {"80/tcp": [{"HostPort": "80"}], "81/tcp": [{"HostPort": "81"}]},
            "Binds": ["named:/data:ro", "kept:/kept"],
            "Mounts": [{"Type": "tmpfs", "Target": "/run"}],
            "Tmpfs": {"/data": "", "/tmp": ""},
        },
    }
    columns = {
        "Env": ["B=2", "C=2"],
        "Labels": {"b": "2"},
        "HostConfig": {
            "Memory": 2,
            "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
            "Mounts": [{"Type": "volume", "Source": "new", "Target": "/data"}],
        },
    }
    merged = adopted_spec.merge(found, columns)
    assert (merged["Env"], merged["Labels"], merged["Cmd"]) == (["A=1", "B=2", "C=2"], {"a": "1", "b": "2"}, ["found"])
    assert merged["HostConfig"] == {
        "Memory": 2,
        "NanoCpus": 7,
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": [{"HostPort": "81"}]},
        "Binds": ["kept:/kept"],
        "Mounts": [
            {"Type": "tmpfs", "Target": "/run"},
            {"Type": "volume", "Source": "new", "Target": "/data"},
        ],
        "Tmpfs": {"/tmp": ""},
    }


def test_compose_labels_name_the_running_image() -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.image": "sha256:1"}
    assert adopted_spec.with_compose_image(labels, "sha256:2")["com.docker.compose.image"] == "sha256:2"
    assert adopted_spec.with_compose_image({"a": "b"}, "sha256:2") == {"a": "b"}
    assert adopted_spec.belongs_to_compose(labels)


@pytest.mark.parametrize(
    ("host_name", "cgroup", "mounts"),
    [
        (ID[:12], "", ""),
        ("renamed", f"12:cpu:/docker/{ID}\n", ""),
        ("renamed", f"0::/system.slice/docker-{ID}.scope\n", ""),
        ("renamed", "0::/\n", f"1 2 0:3 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/a rw\n"),
    ],
)
def test_the_gateway_knows_the_container_it_runs_in(host_name: str, cgroup: str, mounts: str) -> None:
    assert adopted_spec.is_own_container(ID, adopted_spec.own_container_ids(host_name, cgroup, mounts))
    assert not adopted_spec.is_own_container(VOLUME, adopted_spec.own_container_ids(host_name, cgroup, mounts))


def test_outside_a_container_no_container_is_the_gateways_own() -> None:
    of_a_container = f"1 2 0:3 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw\n"
    assert not adopted_spec.is_own_container(
        ID, adopted_spec.own_container_ids("a", "0::/user.slice\n", of_a_container)
    )


def test_an_adopted_spec_round_trips_and_its_repr_has_no_secret() -> None:
    one = base({"Env": ["PASSWORD=secret"]}, holders={VOLUME: "vpn"}, host_name="machine")
    assert AdoptedSpec.load(one.dump()) == one
    assert "secret" not in repr(one)
