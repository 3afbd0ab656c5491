"""What the daemon says is told as one of our codes, and as healing or not."""

import pytest

from gateway.engine.client import classify
from gateway.errors import Code, Failed, Postponed
from gateway.registry.challenge import parse_challenge


@pytest.mark.parametrize(
    ("status", "message", "code", "heals"),
    [
        (900, "Cannot connect to Docker Engine via unix:///x", Code.ENGINE_UNREACHABLE, True),
        (500, "toomanyrequests: You have reached your pull rate limit.", Code.RATE_LIMITED, True),
        (500, "write /var/lib/docker: no space left on device", Code.NO_SPACE, False),
        (500, "Bind for 0.0.0.0:80 failed: port is already allocated", Code.PORT_TAKEN, False),
        (500, "listen tcp4 0.0.0.0:80: bind: address already in use", Code.PORT_TAKEN, False),
        (400, "OCI runtime create failed: exec format error: unknown", Code.WRONG_ARCHITECTURE, False),
        (404, "pull access denied for x/y, repository does not exist", Code.DENIED, False),
        (500, "Get https://r/v2/: unauthorized: authentication required", Code.DENIED, False),
        (404, "manifest for app:v9 not found: manifest unknown", Code.NOT_FOUND, False),
        (404, "network web not found", Code.NETWORK_MISSING, False),
        (409, 'Conflict. The container name "/app" is already in use by container "ab"', Code.NAME_TAKEN, False),
        (500, "dial tcp 127.0.0.1:5000: connect: connection refused", Code.REGISTRY_UNREACHABLE, True),
        (500, "x509: certificate signed by unknown authority", Code.REGISTRY_UNREACHABLE, True),
        (500, "received unexpected HTTP status: 503 Service Unavailable", Code.REGISTRY_UNREACHABLE, True),
        (400, "invalid mount config for type bind", Code.ENGINE_REFUSED, False),
    ],
)
def test_a_refusal_is_told_by_its_code(status: int, message: str, code: Code, heals: bool) -> None:
    error = classify(status, message)
    assert (code, Postponed if heals else Failed) == (error.reason.code, type(error))


def test_every_code_has_a_remedy() -> None:
    from gateway.errors import REMEDIES

    assert set(Code) == set(REMEDIES)


def test_a_challenge_is_read_with_commas_inside_quotes() -> None:
    challenge = parse_challenge('Bearer realm="https://a/token",service="r",scope="repository:a/b:pull,push"')
    assert (challenge.scheme, challenge.parameters["scope"]) == ("bearer", "repository:a/b:pull,push")
