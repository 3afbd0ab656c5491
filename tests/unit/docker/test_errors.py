"""The sentences of engines 20.10 to 29 become the gateway's codes, as transient errors or not."""

from pathlib import Path

import pytest

from gateway.docker.container import exit_diagnosis
from gateway.docker.engine.errors import classify, port_of
from gateway.docker.engine.services import Task
from gateway.docker.swarm.convergence import placement_failure, task_failure
from gateway.model.errors import REMEDIES, Code, NotOnEngine, Postponed
from gateway.registry.challenge import parse_challenge
from tests.support.each_case import each_case

DIGEST = "sha256:" + "0" * 64
SENTENCES = [
    line.split(" ", 2)
    for line in (Path(__file__).parent / "engine_sentences.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
WAITS = {Code.ENGINE_BUSY, Code.ENGINE_UNREACHABLE, Code.RATE_LIMITED, Code.REGISTRY_UNREACHABLE}

_CREATE = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)
_ENDPOINT = "driver failed programming external connectivity on endpoint web (6f0a267d55b23c63c1f9caf3a25a9de9): "


@each_case(("code", "status", "sentence"), SENTENCES)
def test_the_engines_messages_become_codes(code: str, status: str, sentence: str) -> None:
    error = classify(int(status), sentence)
    assert (error.reason.code, isinstance(error, Postponed)) == (code, code in WAITS)
    assert isinstance(error, NotOnEngine) == (status == "404" and code not in WAITS)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (f'{_CREATE}exec: "start": executable file not found in $PATH: unknown', 'no program "start"'),
        (f'{_CREATE}exec: "/start.sh": permission denied: unknown', '"/start.sh" in the image is not executable'),
        ('invalid mount config for type "bind": bind source path does not exist: /srv/web', "/srv/web to mount does"),
        ('create data: error looking up volume plugin rexray: plugin "rexray" not found', "no volume driver rexray"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "not exist for linux/arm64/v8"),
        ("network web not found", "no network web"),
        (f"{_ENDPOINT}Error starting userland proxy: listen tcp4 0.0.0.0:80: bind: address already in use",
         "ss -ltnp 'sport = :80'"),
        (f"{_ENDPOINT}Error starting userland proxy: listen udp4 0.0.0.0:53: bind: address already in use",
         "ss -lunp 'sport = :53'"),
        ('Get "https://r:5000/v2/": http: server gave HTTP response to HTTPS client', "insecure-registries"),
        (f"{_ENDPOINT}Error starting userland proxy: listen tcp4 192.0.2.5:80: bind: cannot assign requested address",
         "192.0.2.5:80"),
        (f'{_CREATE}error mounting "/a" to rootfs at "/b": mount: not a directory', "/a on the host and /b in"),
    ],
)  # fmt: skip
def test_the_message_names_its_subject(message: str, says: str) -> None:
    assert says in classify(500, message).reason.message


@pytest.mark.parametrize(
    ("message", "port"),
    [
        ("Bind for 0.0.0.0:80 failed: port is already allocated", (80, "tcp")),
        ("Bind for :::80 failed: port is already allocated", None),
        ("listen udp4 127.0.0.1:53: bind: address already in use", (53, "udp")),
        ("listen tcp6 [::]:80: bind: address already in use", (80, "tcp")),
        ("failed to bind host port for 0.0.0.0:80:172.18.0.2:8080/udp: address already in use", (80, "udp")),
        ("failed to bind host port 0.0.0.0:80/tcp: address already in use", (80, "tcp")),
        ("no port is named", None),
    ],
)
def test_the_port_is_found_in_the_engines_message(message: str, port: tuple[int, str] | None) -> None:
    assert port_of(message) == port


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("toomanyrequests: retry-after: 65.183µs, allowed: 44000/minute", 1.0),
        ("toomanyrequests: retry-after: 90s", 90.0),
        ("toomanyrequests: Retry-After: 120", 120.0),
        ("toomanyrequests: You have reached your pull rate limit.", None),
    ],
)
def test_a_rate_limit_is_waited_for_as_long_as_it_says(message: str, seconds: float | None) -> None:
    error = classify(500, message)
    assert isinstance(error, Postponed)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("exec /entry: exec format error\n", Code.WRONG_ARCHITECTURE),
        ("standard_init_linux.go:228: exec user process caused: exec format error\n", Code.WRONG_ARCHITECTURE),
        ("{'msg': 'exec container process `/entry`: Exec format error'}", Code.WRONG_ARCHITECTURE),
        ("/entry: /app: cannot execute binary file: Exec format error\n", Code.WRONG_ARCHITECTURE),
        ("exec /entry: no such file or directory\n", Code.COMMAND_NOT_FOUND),
        ("standard_init_linux.go:228: exec user process caused: no such file or directory", Code.COMMAND_NOT_FOUND),
        ("exec /entry: permission denied\n", Code.COMMAND_NOT_EXECUTABLE),
        ("open /etc/app.conf: no such file or directory\n", None),
        ("cannot write /data: permission denied\n", None),
        ("exec format error, said long ago\n" + "serving\n" * 5, None),
        ("", None),
    ],
)
def test_a_failed_exec_is_distinguished_from_an_exit(log: str, code: Code | None) -> None:
    told = exit_diagnosis.failed_to_exec(log)
    assert (told and told[0]) == code


def _task(state: str, said: str, exit_code: int = 0) -> Task:
    return Task("t", 1, "n", state, "shutdown", "", said, exit_code, "", {})


@pytest.mark.parametrize(
    ("state", "said", "code", "says"),
    [
        ("failed", "task: non-zero exit (3)", Code.EXITED, "non-zero exit (3)"),
        ("failed", "task: non-zero exit (137)", Code.EXITED, "non-zero exit (137): killed, by SIGKILL"),
        ("complete", "finished", Code.EXITED, "code 0 (it ended by itself"),
        ("failed", "task: non-zero exit (143): dockerexec: unhealthy container", Code.UNHEALTHY, "unhealthy"),
        ("rejected", "No such image: r/a:v1@" + DIGEST, Code.NODE_CANNOT_PULL, "No such image"),
        ("rejected", 'invalid mount config for type "bind": bind source path does not exist: /srv', Code.VOLUME_MISSING,
         "/srv"),
        ("failed", f'starting container failed: {_CREATE}exec: "start": executable file not found in $PATH: unknown',
         Code.COMMAND_NOT_FOUND, '"start"'),
        ("failed", f"starting container failed: {_ENDPOINT}Bind for 0.0.0.0:80 failed: port is already allocated",
         Code.PORT_TAKEN, "0.0.0.0:80"),
        ("rejected", "network sandbox join failed", Code.ENGINE_REFUSED, "sandbox"),
    ],
)  # fmt: skip
def test_a_failed_task_gets_the_same_codes(state: str, said: str, code: Code, says: str) -> None:
    reason = task_failure("web", _task(state, said)).reason
    assert reason.code is code
    assert says in reason.message


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("no suitable node (unsupported platform on 3 nodes)", Code.WRONG_ARCHITECTURE),
        ("no suitable node (host-mode port already in use on 1 node)", Code.PORT_TAKEN),
        ("no suitable node (unsupported platform on 1 node; insufficient resources on 2 nodes)", Code.NO_SUITABLE_NODE),
        ("no suitable node (scheduling constraints not satisfied on 1 node)", Code.NO_SUITABLE_NODE),
        ("no suitable node", Code.NO_SUITABLE_NODE),
    ],
)
def test_an_unplaced_task_is_reported_by_the_reason_common_to_all_nodes(said: str, code: Code) -> None:
    assert placement_failure("web", _task("pending", said)).reason.code is code


def test_the_message_is_bounded() -> None:
    assert len(classify(500, "unauthorized: " + "x" * 100_000).reason.message) <= 2000


def test_every_code_has_a_remedy() -> None:
    assert set(Code) == set(REMEDIES)


def test_a_challenge_is_read_with_commas_inside_quotes() -> None:
    challenge = parse_challenge('Bearer realm="https://a/token",service="r",scope="repository:a/b:pull,push"')
    assert (challenge.scheme, challenge.parameters["scope"]) == ("bearer", "repository:a/b:pull,push")
