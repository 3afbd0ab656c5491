"""Tests the choice of how a swap goes."""

from typing import Any

import pytest

from gateway.docker.container.update_order import boot_obstacle
from gateway.model.configuration import Order

PUBLISHED: dict[str, Any] = {"PortBindings": {"8080/tcp": [{"HostPort": "80"}]}}


def test_a_published_port_alone_lets_the_new_container_boot_beside_the_old_one() -> None:
    assert boot_obstacle({"HostConfig": {**PUBLISHED, "IpcMode": "private"}}, {}, None) is None
    read = {"Type": "bind", "Source": "/etc/app", "Target": "/etc/app", "ReadOnly": True}
    assert boot_obstacle({"HostConfig": {**PUBLISHED, "Mounts": [read]}}, {"front": {"Aliases": ["web"]}}, None) is None


@pytest.mark.parametrize(
    ("host", "endpoints", "chosen", "reason"),
    [
        ({}, {}, Order.STOP_FIRST, "its order is configured"),
        ({"Mounts": [{"Type": "volume", "Target": "/data"}]}, {}, None, "a volume that it writes"),
        ({"Binds": ["data:/data"]}, {}, None, "a volume that it writes"),
        ({"VolumesFrom": ["other"]}, {}, None, "a volume that it writes"),
        ({}, {"front": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}, None, "a fixed address"),
        ({"NetworkMode": "host"}, {}, None, "a shared network namespace"),
        ({"NetworkMode": "container:other"}, {}, None, "a shared network namespace"),
        ({"PublishAllPorts": True}, {}, None, "ports of the engine's choice"),
        ({"PortBindings": {"53/udp": [{"HostPort": "53"}]}}, {}, None, "a published port other than TCP"),
        ({}, {"front": {}, "back": {}}, None, "more than one network"),
        ({}, {"front": {"DriverOpts": {"a": "b"}}}, None, "DriverOpts of its network"),
        ({"Links": ["db:db"]}, {}, None, "Links of its host configuration"),
        ({"Devices": [{}], "Privileged": True}, {}, None, "Devices, Privileged of its host configuration"),
        ({"IpcMode": "host"}, {}, None, "IpcMode of its host configuration"),
        ({"CapAdd": ["NET_ADMIN"]}, {}, None, "the capability NET_ADMIN"),
    ],
)
def test_what_cannot_be_had_twice_or_leads_past_its_network_forbids_it(
    host: dict[str, Any], endpoints: dict[str, dict[str, Any]], chosen: Order | None, reason: str
) -> None:
    assert boot_obstacle({"HostConfig": {**PUBLISHED, **host}}, endpoints, chosen) == reason
