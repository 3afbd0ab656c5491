"""Which version of the Engine API is spoken, and what a request to create a container is in it."""

from typing import Any

import pytest

from gateway.docker.engine import api_version


@pytest.mark.parametrize(
    ("most", "least", "spoken"),
    [
        ("1.41", "1.12", "1.41"),  # Docker 20.10
        ("1.41", "1.24", "1.41"),  # Podman 4.3
        ("1.47", "1.24", "1.47"),
        ("1.51", "1.24", "1.51"),
        ("1.52", "1.44", "1.51"),  # Docker 29
        ("1.60", "1.44", "1.51"),
        ("1.99", "1.60", "1.60"),
        ("1.9", "1.6", "1.9"),
    ],
)
def test_the_newest_known_version_is_spoken_that_the_engine_speaks_too(most: str, least: str, spoken: str) -> None:
    assert api_version.choose({"ApiVersion": most, "MinAPIVersion": least}) == spoken


def test_an_engine_that_names_no_oldest_version_is_spoken_to_in_its_newest() -> None:
    assert api_version.choose({"ApiVersion": "1.40"}) == "1.40"


@pytest.mark.parametrize(
    ("status", "message", "refused"),
    [
        (400, "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade", True),
        (400, "client version 1.51 is too new. Maximum supported API version is 1.41", True),
        (500, "client version 1.51 is too new. Maximum supported API version is 1.41", False),
        (400, "invalid reference format", False),
    ],
)  # fmt: skip
def test_a_refused_version_is_told_from_other_objections(status: int, message: str, *, refused: bool) -> None:
    assert api_version.is_refused(status, message) is refused


_OLD: dict[str, Any] = {
    "Image": "web:1",
    "MacAddress": "02:42:ac:11:00:99",
    "HostConfig": {
        "NetworkMode": "default",
        "KernelMemory": 0,
        "KernelMemoryTCP": 0,
        "PortBindings": {"80/tcp": [], "81/tcp": [{"HostIp": "", "HostPort": "81"}]},
    },
}


def test_a_container_of_an_old_engine_is_created_on_it_as_it_is() -> None:
    assert api_version.create_body(_OLD, (1, 41)) == _OLD


def test_a_chosen_mac_address_becomes_the_one_of_its_network() -> None:
    made = api_version.create_body(_OLD, (1, 44))
    assert "MacAddress" not in made
    assert made["NetworkingConfig"] == {"EndpointsConfig": {"bridge": {"MacAddress": "02:42:ac:11:00:99"}}}
    joined = {
        "HostConfig": {"NetworkMode": "shop"},
        "NetworkingConfig": {"EndpointsConfig": {"shop": {"Aliases": ["a"]}}},
    }
    made = api_version.create_body({**_OLD, **joined}, (1, 51))
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "shop": {"Aliases": ["a"], "MacAddress": "02:42:ac:11:00:99"}
    }
    assert joined["NetworkingConfig"] == {"EndpointsConfig": {"shop": {"Aliases": ["a"]}}}


def test_what_later_versions_removed_is_not_sent() -> None:
    assert set(api_version.create_body(_OLD, (1, 42))["HostConfig"]) == {
        "NetworkMode", "KernelMemoryTCP", "PortBindings"
    }  # fmt: skip
    assert set(api_version.create_body(_OLD, (1, 52))["HostConfig"]) == {"NetworkMode", "PortBindings"}


def test_a_port_that_the_engine_chose_is_still_published_where_empty_bindings_publish_nothing() -> None:
    ports = api_version.create_body(_OLD, (1, 53))["HostConfig"]["PortBindings"]
    assert ports == {"80/tcp": [{"HostIp": "", "HostPort": ""}], "81/tcp": [{"HostIp": "", "HostPort": "81"}]}
    assert _OLD["HostConfig"]["PortBindings"]["80/tcp"] == []


def test_a_network_is_asked_to_be_the_only_one_of_its_name_where_that_is_not_given() -> None:
    assert api_version.network_body({"Name": "a"}, (1, 41)) == {"Name": "a", "CheckDuplicate": True}
    assert api_version.network_body({"Name": "a"}, (1, 44)) == {"Name": "a"}
