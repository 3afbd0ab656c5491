"""All errors that the gateway raises on purpose, and the codes and remedies of deployments.

    GatewayError                 says what failed, on what, why, and what to do next
    ├── InvalidInput       400   the input is invalid
    │   └── TooLarge       413
    ├── Unauthenticated    401   credentials are missing or wrong
    ├── Forbidden          403
    ├── NotFound           404
    ├── Conflict           409
    ├── Throttled          429   a rate limit is exceeded
    ├── Unavailable        503   a part the gateway needs does not answer
    │   ├── DatabaseUnavailable  the database is unreachable, or fails for now
    │   │   └── TransactionConflict  the transaction had to make way for another one
    │   └── UndecryptableSecret  a secret that no master key decrypts
    └── RolloutError             a rollout cannot continue; carries a Reason
        ├── Postponed            a transient error: the deployment waits and is retried
        │   └── AtGate           a gate cannot tell yet: the deployment waits, and the gate is asked again
        └── Failed               a permanent error
            └── NotOnEngine      the engine has no such thing

Only `gateway.api` reads `status`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import ClassVar

_MAX_INDEX_DIGITS = 9  # digits of a number that names an element of a list


class GatewayError(Exception):
    """Base of all errors raised on purpose. Its text may be shown to the caller."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    #: the published code, where it is not the name of the class
    code: ClassVar[str | None] = None

    @property
    def published_code(self) -> str:
        """The code in an answer to a webhook."""
        return self.code or type(self).__name__


class InvalidInput(GatewayError):
    """The input is invalid. `field` names the part of it, dotted. A long message is truncated."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message if len(message) <= MAX_MESSAGE_LENGTH else truncate(message, MAX_MESSAGE_LENGTH))
        self.field = field

    @property
    def path(self) -> list[str | int]:
        """The parts of `field`; a number names an element of a list."""
        parts = self.field.split(".") if self.field else []
        return [int(part) if part.isdecimal() and len(part) <= _MAX_INDEX_DIGITS else part for part in parts]


class TooLarge(InvalidInput):
    """The input is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Unauthenticated(GatewayError):
    """Credentials are missing or wrong."""

    status = HTTPStatus.UNAUTHORIZED


class Forbidden(GatewayError):
    """The caller is not allowed to do this."""

    status = HTTPStatus.FORBIDDEN


class NotFound(GatewayError):
    """The object does not exist."""

    status = HTTPStatus.NOT_FOUND


class Conflict(GatewayError):
    """The name is taken, or the current state does not allow it."""

    status = HTTPStatus.CONFLICT


class Throttled(GatewayError):
    """A rate limit is exceeded. `retry_after` is in seconds."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(GatewayError):
    """A part the gateway needs does not answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or fails for a reason that is transient."""


class TransactionConflict(DatabaseUnavailable):
    """The database undid a transaction so that another one could go on. Repeated, it may succeed."""

    code = "DatabaseUnavailable"


class UndecryptableSecret(Unavailable):
    """A secret that no master key decrypts. `place` says where it is stored."""

    code = "Unreadable"

    def __init__(self, message: str, *, place: str) -> None:
        super().__init__(message)
        self.place = place


class Code(StrEnum):
    """Why a deployment waits, failed or did nothing. A code does not change, and is the same everywhere."""

    DENIED = "denied"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    REGISTRY_UNREACHABLE = "registry_unreachable"
    REGISTRY_UNTRUSTED = "registry_untrusted"
    PULL_INTERRUPTED = "pull_interrupted"
    WRONG_ARCHITECTURE = "wrong_architecture"
    NO_IMAGE = "no_image"
    NO_SPACE = "no_space"
    NAME_TAKEN = "name_taken"
    PORT_TAKEN = "port_taken"
    NETWORK_MISSING = "network_missing"
    VOLUME_MISSING = "volume_missing"
    CONTAINER_MISSING = "container_missing"
    COMMAND_NOT_FOUND = "command_not_found"
    COMMAND_NOT_EXECUTABLE = "command_not_executable"
    BAD_CONFIGURATION = "bad_configuration"
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    UNHEALTHY = "unhealthy"
    WRONG_DIGEST = "wrong_digest"
    NO_SWARM = "no_swarm"
    NO_SUITABLE_NODE = "no_suitable_node"
    NODE_CANNOT_PULL = "node_cannot_pull"
    TIMED_OUT = "timed_out"
    NOTHING_KEPT = "nothing_kept"
    ENGINE_UNREACHABLE = "engine_unreachable"
    ENGINE_REFUSED = "engine_refused"
    ENGINE_BUSY = "engine_busy"
    SLOTS_TAKEN = "slots_taken"
    DATABASE_UNAVAILABLE = "database_unavailable"
    GATEWAY_STOPPED = "gateway_stopped"
    GATEWAY_KILLED = "gateway_killed"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    CANCELLED = "cancelled"
    SATISFIED = "satisfied"
    UP_TO_DATE = "up_to_date"
    INTERNAL = "internal"
    GATE_PASSED = "gate_passed"
    GATE_REFUSED = "gate_refused"
    GATE_UNANSWERED = "gate_unanswered"
    GATE_EXPIRED = "gate_expired"
    UNSIGNED = "unsigned"
    VULNERABLE = "vulnerable"
    OUTSIDE_WINDOW = "outside_window"
    TOO_NEW = "too_new"
    AWAITS_APPROVAL = "awaits_approval"
    APPROVAL_REJECTED = "approval_rejected"
    NOT_PROVEN = "not_proven"
    RELEASE_WAITS = "release_waits"
    RELEASE_FAILED = "release_failed"

    @classmethod
    def parse(cls, text: str) -> "Code":
        """Return the code of this name; INTERNAL for an unknown one, which a newer gateway may have written."""
        return cls(text) if text in cls.__members__.values() else cls.INTERNAL


REMEDIES: dict[Code, str] = {
    Code.DENIED: "Check the user name and token of the registry, or of the application, and that they may pull this "
    "repository. To try a stored login: gateway registries test.",
    Code.NOT_FOUND: "Check the image's name and tag, and that it was pushed to this registry.",
    Code.RATE_LIMITED: "Nothing to do: the gateway retries when the registry allows it. A login for this registry "
    "raises the limit; otherwise use another registry, or set a mirror in the engine (registry-mirrors).",
    Code.REGISTRY_UNREACHABLE: "Nothing to do if the registry is only restarting: the gateway retries. Otherwise "
    "check its address and the network.",
    Code.REGISTRY_UNTRUSTED: "Add the certificate of the registry's CA to the registry (caCertificate, or gateway "
    "registries create --ca-file), and to each engine that pulls, as /etc/docker/certs.d/HOST:PORT/ca.crt; then "
    "deploy again. If the certificate has expired, or is for another name, it must be renewed at the registry.",
    Code.PULL_INTERRUPTED: "Nothing to do: the gateway retries.",
    Code.WRONG_ARCHITECTURE: "Push the image for the engine's platform too, for example: docker buildx build "
    "--platform linux/amd64,linux/arm64 --push. If the platform is right, check that the script that the image runs "
    "begins with a #! line.",
    Code.NO_IMAGE: "Set dockerImage with application.saveDockerProvider or application.update to a tag that names "
    "an image; charts and other artifacts cannot be run.",
    Code.NO_SPACE: "Free space on the engine's disk, for example: docker image prune -a",
    Code.NAME_TAKEN: "Rename or remove the container or service that has the name; or delete this application and "
    "adopt that one: gateway apps adopt",
    Code.PORT_TAKEN: "Stop what uses the port, or publish another port. On the engine's host, ss -ltnp lists the "
    "processes that listen.",
    Code.NETWORK_MISSING: "Create the network on the engine, or remove it from the application.",
    Code.VOLUME_MISSING: "Create the directory on each host that runs it, or install the volume's driver there; or "
    "correct the application's mounts.",
    Code.CONTAINER_MISSING: "Find out who removes containers on this host; docker container prune in a cron job "
    "spares the gateway's with --filter label!=gateway.application. Then deploy again.",
    Code.COMMAND_NOT_FOUND: "Correct command, or the image's own entrypoint: the image must contain the program, "
    "and the interpreter in the first line of a script; lines must not end with a carriage return.",
    Code.COMMAND_NOT_EXECUTABLE: "Make the file executable in the image, for example: RUN chmod +x /entrypoint.sh; "
    "or correct command.",
    Code.BAD_CONFIGURATION: "Correct the application's configuration and deploy again.",
    Code.EXITED: "The container's last lines say why. If it exits with code 0, give it a command that keeps "
    "running. The version that served before, if any, is kept or put back.",
    Code.OUT_OF_MEMORY: "Raise memoryLimit, or find out what uses the memory.",
    Code.UNHEALTHY: "The output of the health check, or the answer to the probe, says why. The version that served "
    "before, if any, is kept or put back.",
    Code.WRONG_DIGEST: "Deploy again; if the error stays, the registry and the engine disagree on the image.",
    Code.NO_SWARM: "Make the engine a Swarm manager: docker swarm init. Or run the application as a container: "
    "runtime container, replicas 1.",
    Code.NO_SUITABLE_NODE: "Add a node that fits, or require less of a node: placement, reservations, ports.",
    Code.NODE_CANNOT_PULL: "Check that each node reaches the registry, trusts its certificate and may pull the "
    "image. The gateway sends its credentials for the registry to the nodes with each deployment.",
    Code.TIMED_OUT: "See which step took the time; raise GATEWAY_PROGRESS_DEADLINE if that step needs more, or "
    "healthDeadline if tasks start slowly.",
    Code.NOTHING_KEPT: "Deploy a version by its tag or digest instead.",
    Code.ENGINE_UNREACHABLE: "Start the Docker Engine, or check its address (GATEWAY_DOCKER_HOST, or: gateway "
    "servers test); the gateway retries.",
    Code.ENGINE_REFUSED: "Correct what the Docker Engine objects to and deploy again. If it cannot unpack a layer, "
    "build and push the image again; an engine older than 23 needs layers compressed with gzip.",
    Code.ENGINE_BUSY: "Nothing to do: the engine is still cleaning up after a restart, or after a container that "
    "exited, and the gateway retries. If the error stays, restart the Docker Engine.",
    Code.SLOTS_TAKEN: "Nothing to do: the deployment continues as soon as one of them is done. GATEWAY_SWAPS sets "
    "how many applications an engine stops and starts at once; a long stopGrace holds a slot for as long.",
    Code.GATEWAY_STOPPED: "Nothing to do: the next gateway that runs continues the deployment.",
    Code.DATABASE_UNAVAILABLE: "Nothing to do if PostgreSQL is only restarting or busy: the gateway retries. "
    "Otherwise free its disk, raise its max_connections, or end what makes it read-only.",
    Code.GATEWAY_KILLED: "Find out why the gateway ended each time: see its own log, the system's (dmesg reports a "
    "process killed for lack of memory), or what restarts it. Then deploy again.",
    Code.TOO_MANY_ATTEMPTS: "Fix what each attempt failed on and deploy again.",
    Code.CANCELLED: "Nothing to do. Deploy again when you want it.",
    Code.SATISFIED: "Nothing to do.",
    Code.UP_TO_DATE: "Nothing to do. To replace the container anyway: gateway deploy APP --redeploy",
    Code.INTERNAL: "This is a defect of the gateway; its log has the details under the deployment's id.",
    Code.GATE_PASSED: "Nothing to do.",
    Code.GATE_REFUSED: "See why the gate refuses: gateway deployments show. Push an image that it accepts; or let "
    "this deployment pass: gateway gates override.",
    Code.GATE_UNANSWERED: "Do what the message says, if anything; the gateway asks again by itself. To see the gate's "
    "address and settings: gateway gates list APP.",
    Code.GATE_EXPIRED: "Fix what the gate waits for and deploy again.",
    Code.UNSIGNED: "Sign this digest with a key that the gate trusts, and deploy again: cosign sign --key KEY "
    "IMAGE@DIGEST.",
    Code.VULNERABLE: "Build the image again with the fixed packages and push it; or add the finding to the gate's "
    "ignore list, with an expiry.",
    Code.OUTSIDE_WINDOW: "Nothing to do: the deployment goes on when the window opens; gateway gates next APP says "
    "when.",
    Code.TOO_NEW: "Nothing to do: the deployment goes on once the image has been out for long enough.",
    Code.AWAITS_APPROVAL: "Approve it, or reject it: gateway approvals list.",
    Code.APPROVAL_REJECTED: "Read the reason; push another image or change the configuration, and deploy again.",
    Code.NOT_PROVEN: "Let the application that it follows run this image for the soak time.",
    Code.RELEASE_WAITS: "Nothing to do: the deployment goes on when the other members of its release are ready.",
    Code.RELEASE_FAILED: "See which member of the release failed, mend it, and release again.",
}


# Bytes of a header that are not UTF-8 are decoded as surrogates.
_SURROGATES = re.compile("[\ud800-\udfff]")
MAX_MESSAGE_LENGTH = 3000  # characters


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a deployment waits, failed or did nothing. `message` names the object. A long message is truncated."""

    code: Code
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", truncate(self.message, MAX_MESSAGE_LENGTH))

    @property
    def remedy(self) -> str:
        return REMEDIES[self.code]


def storable_text(text: str) -> str:
    """Replace what PostgreSQL cannot store in a text: zero bytes and surrogates."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if text.isascii() else _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def truncate(text: str, most: int) -> str:
    """Truncate foreign text to `most` characters, ending with …, and make it storable."""
    return storable_text(text if len(text) <= most else f"{text[: most - 1]}…")


class RolloutError(GatewayError):
    """A rollout cannot continue."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.reason = Reason(code, message)


class Postponed(RolloutError):
    """A transient error. `retry_after` is in seconds, if the other side named a time."""

    def __init__(self, code: Code, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class AtGate(Postponed):
    """A gate cannot tell yet: it is no attempt, and the gates are asked again `retry_after` seconds from now.

    Before they were asked the deployment had been woken `wakes` times: a further time lets it ask again at once.
    """

    def __init__(self, reason: Reason, *, retry_after: float, wakes: int) -> None:
        super().__init__(reason.code, reason.message, retry_after=retry_after)
        self.wakes = wakes


class Prepared(Postponed):
    """A deployment is pulled, verified and created, and waits for the other members of its release.

    `spec_hash` stands for the configuration that it was created with.
    """

    def __init__(self, spec_hash: str) -> None:
        super().__init__(Code.RELEASE_WAITS, "it is prepared, and waits for the other members of its release")
        self.spec_hash = spec_hash


class Failed(RolloutError):
    """A permanent error. `log` holds the last lines of the container that failed."""

    def __init__(self, code: Code, message: str, *, log: str = "") -> None:
        super().__init__(code, message)
        self.log = log


class NotOnEngine(Failed):
    """The engine answered 404: it does not have the object."""
