"""Settings are written as people write them."""

from typing import Any

import pytest

from gateway.model.setting_text import describe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("serve --all", "serve --all"),
        ("true", True),
        ("0.5", 0.5),
        ("8080:80/tcp", [{"publishedPort": 8080, "targetPort": 80}]),
        (
            "127.0.0.1:8080:80/tcp, [::1]:53:53/udp (on each node)",
            [
                {"portId": "p", "publishedPort": 8080, "targetPort": 80, "protocol": "tcp", "hostIp": "127.0.0.1"},
                {"publishedPort": 53, "targetPort": 53, "protocol": "udp", "publishMode": "host", "hostIp": "::1"},
            ],
        ),
        (
            "data:/data, /srv:/srv:ro, web.conf:/etc/web.conf (file)",
            [
                {"type": "volume", "source": "data", "target": "/data", "mountPath": "/data", "readOnly": False},
                {"type": "bind", "source": "/srv", "target": "/srv", "readOnly": True},
                {"type": "file", "source": "web.conf", "target": "/etc/web.conf", "content": "secret"},
            ],
        ),
        ("/run, /tmp:size=64m", [{"target": "/run", "size": None}, {"target": "/tmp", "size": "64m"}]),
        ("tcp:5432", {"type": "tcp", "port": 5432, "path": None}),
        ("http:8080/health (status 204, interval 2)", {"port": 8080, "path": "/health", "status": 204, "interval": 2}),
        ("front, back", ["front", "back"]),
        ('["serve", "a, b"]', ["serve", "a, b"]),  # else it would read as three
        ("team=shop, tier=1", {"team": "shop", "tier": 1, "none": None}),
        ('{"test": ["CMD", "true"]}', {"test": ["CMD", "true"], "retries": None}),
    ],
)
def test_a_setting_is_written_as_people_write_it(text: str, value: Any) -> None:
    assert describe(value) == text
