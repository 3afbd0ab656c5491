"""Translates the Docker Engine's error messages into the gateway's error codes. No I/O.

The engine answers most errors with status 500 and a sentence. The wording, and the prefixes around it, differ between
versions. The rules below cover engines 20.10 to 29 with either image store. The first rule that matches applies.
"""

import re
from dataclasses import dataclass

from gateway.model.errors import Code, Failed, NotOnEngine, Postponed

_MAX_LENGTH = 2000  # characters of a message, which may contain a registry's answer of any length
_UNREACHABLE = 900  # aiodocker's status for a daemon that it cannot connect to
_BAD_REQUEST, _NOT_FOUND, _CONFLICT = 400, 404, 409

_TRANSIENT = frozenset({Code.ENGINE_BUSY, Code.ENGINE_UNREACHABLE, Code.RATE_LIMITED, Code.REGISTRY_UNREACHABLE})
_MIN_RETRY_AFTER = 1.0  # seconds; GHCR names microseconds, although its limit is per minute
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_RETRY_AFTER = re.compile(r"retry-after: ?(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|)\b", re.IGNORECASE)

#: the message when the engine has a layer and cannot unpack it
CANNOT_UNPACK = "the engine cannot unpack a layer of the image"

# Messages that name a port: of the engine's allocator, of its proxy, and of engines from 28 on.
_PORT = re.compile(
    r"(?:bind for|listen (?P<listens>tcp|udp)[46]?|bind host port(?: for)?) (?:\[[^\]]*\]|[\d.]*):(?P<port>\d+)"
    r"(?:[\d.:\[\]a-f]*/(?P<protocol>tcp|udp|sctp))?",
    re.IGNORECASE,
)
_WRAPPED = re.compile(
    r"^(?:(?:error response from daemon|starting container failed|failed to create (?:shim )?task(?: for container)?"
    r"|OCI runtime create failed|(?:runc|crun) create failed|container_linux\.go:\d+|unable to start container process"
    r"|error during container init|starting container process caused|failed to set up container networking"
    r"|driver failed programming external connectivity on endpoint \S+ \([0-9a-f]+\)"
    r"|error starting userland proxy): )+",
    re.IGNORECASE,
)


# aiodocker's message around aiohttp's
_NO_ANSWER = re.compile(
    r"Cannot connect to Docker Engine via (?P<host>\S+) "
    r"\[(?:Cannot connect to (?:host|unix socket) \S+ ssl:.*? \[)?(?P<why>.+?)\]{1,2}",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    code: Code
    #: the message, with the pattern's groups as fields; "" keeps the engine's own message
    text: str = ""


def _rule(code: Code, *sentences: str, text: str = "") -> _Rule:
    """Return a rule. Its patterns do not match within an image's name."""
    return _Rule(re.compile(rf"(?<![\w./-])(?:{'|'.join(sentences)})", re.IGNORECASE | re.DOTALL), code, text)


_WORD = r"exec: \\*\"(?P<word>[^\"\\]+)\\*\": "
_NAME = r"(?P<network>[\w][\w.-]*)"

_RULES = (
    _rule(Code.RATE_LIMITED, "toomanyrequests", "pull rate limit", "429 too many requests"),
    _rule(Code.ENGINE_BUSY, "not a swarm manager. manager is being prepared",
          text="the engine's part of the Swarm is still starting"),
    # The second: an engine that is shutting down has closed its connection to containerd.
    _rule(Code.ENGINE_UNREACHABLE, r"rpc error: code = (?:unavailable|aborted|canceled|deadlineexceeded)\b",
          "grpc: the client connection is closing"),
    _rule(Code.NO_SWARM, "not a swarm manager"),
    _rule(Code.NO_SPACE, "no space left on device"),
    # Before the rules for the network, unless the process that reads the layer ended.
    _rule(
        Code.ENGINE_REFUSED,
        r"(?:failed to register layer|failed to extract layer|error processing tar file)"
        r"(?!.*(?:error reading from server|code = unavailable|transport is closing|ttrpc: closed|context canceled))",
        "archive/tar: ",
        "invalid tar header",
        text=CANNOT_UNPACK,
    ),
    _rule(
        Code.REGISTRY_UNREACHABLE,
        r"error parsing http \d+ response body",
        "invalid character '<' looking for beginning of value",
        text="the registry answers with an HTML page: check whether a proxy is in front of it",
    ),
    _rule(Code.ENGINE_UNREACHABLE, "dial unix ", "error while dialing", "cannot connect to the docker daemon"),
    # Remains of a container's last run, in the words of the runtime, containerd and the engine, oldest first.
    _rule(Code.ENGINE_BUSY, r"sandbox \S+ not found", "id already in use",
          "container with (?:given )?id (?:already )?exists", r"(?:task|container) \S+ already exists",
          "removal of container .* is already in progress", "is marked for removal and cannot be",
          text="the engine is still cleaning up the container's last run"),
    # What the runtime says of a container that stops or starts at that moment, in words that differ between versions.
    _rule(Code.ENGINE_BUSY, r"cannot update container \S+: (?!(?:bad parameter|conflicting options|restart policy))",
          r"(?<=: )container not running", "process already finished", r".*\bdid not receive an exit event"),
    # Before the rules for connections and for missing programs, whose patterns also match these.
    _rule(
        Code.VOLUME_MISSING,
        r"bind (?:mount )?source path does not exist:? *(?P<source>\S*)",
        text="the path {source} to mount does not exist on the engine's host",
    ),
    _rule(
        Code.VOLUME_MISSING,
        r"error looking up volume plugin (?P<driver>[^:\s]+):",
        text="the engine has no volume driver {driver}",
    ),
    _rule(Code.VOLUME_MISSING, "error while mounting volume", "failed to mount local volume", "no such volume"),
    _rule(
        Code.BAD_CONFIGURATION,
        r"(?:error )?mounting \\*\"(?P<source>[^\"\\]+)\\*\" to rootfs (?:\\*\"[^\"]*\" )?at \\*\"(?P<target>[^\"\\]+)"
        r"\\*\".*(?:not|is) a directory",
        text="{source} on the host and {target} in the image must both be directories or both be files",
    ),
    _rule(Code.PORT_TAKEN, r"bind for \S+ failed: port is already allocated", "is already in use by service"),
    _rule(Code.PORT_TAKEN, "(?:bind: )?address already in use", "port already in use"),
    _rule(Code.BAD_CONFIGURATION, r"listen \S+ (?P<at>\S+): bind: cannot assign requested address",
          r"bind host port(?: for)? (?P<also>\S+): cannot assign requested address",
          text="the engine's host does not have the address to publish {at}{also} on"),
    _rule(Code.BAD_CONFIGURATION, r"listen \S+ \S+:(?P<port>\d+): bind: permission denied",
          text="the engine cannot publish port {port}: a rootless engine publishes only ports from 1024 on"),
    _rule(Code.WRONG_ARCHITECTURE, "exec format error", "does not match the specified platform",
          "no match for platform", "image operating system .* cannot be used on this platform"),
    _rule(Code.WRONG_ARCHITECTURE, r"no matching manifest for (?P<platform>\S+) in",
          text="the image does not exist for {platform}, the engine's platform"),
    _rule(Code.COMMAND_NOT_FOUND, rf"{_WORD}(?:executable file not found|stat .*no such file|no such file|not found)",
          r"executable file `(?P<other>[^`]+)` not found",
          text='the image has no program "{word}{other}"'),
    _rule(Code.COMMAND_NOT_FOUND, "no command specified",
          text="neither the image nor the application names a command to run"),
    _rule(Code.COMMAND_NOT_EXECUTABLE, rf"{_WORD}(?:permission denied|is a directory|operation not permitted)",
          r"open executable: (?P<other>permission denied)",
          text='"{word}{other}" in the image is not executable'),
    _rule(Code.NETWORK_MISSING, rf"network (?:with name or id )?{_NAME} not found",
          text="the engine has no network {network}"),
    _rule(Code.NETWORK_MISSING, f"no such network: {_NAME}", text="the engine has no network {network}"),
    _rule(Code.OUT_OF_MEMORY, "oom-killed", r"\S*memory\.(?:memsw\.)?limit_in_bytes: device or resource busy",
          text="memoryLimit is too low for a container to start at all"),
    _rule(Code.BAD_CONFIGURATION, r"\S*cpu\.(?:cfs_quota_us|max): invalid argument",
          text="cpuLimit is less than 0.01 processors, the least a container starts with"),
    _rule(Code.BAD_CONFIGURATION, r"minimum memory (?P<what>limit|reservation) (?:allowed|can not be less than)",
          r"range of cpus is from", "unable to find (?:user|group)", "no matching entries in passwd file",
          "wrong rlimit", "invalid ulimit", "error setting rlimit", "could not select device driver",
          "error gathering device information", "sysctl ", "invalid --security-opt", "cannot mkdir: ",
          "unknown (?:or invalid )?runtime", "error looking up logging plugin", "failed to initialize logging driver",
          "duplicate mount point", "invalid mount config", "invalid restart policy", "unknown capability",
          "conflicting options", "chdir to cwd", "only networks scoped to the swarm",
          "cannot be used with services"),
    _rule(Code.REGISTRY_UNTRUSTED, r"x509: ", "tls: failed to verify certificate", "remote error: tls: "),
    _rule(Code.REGISTRY_UNTRUSTED, "(?:http: )?server gave http response to https client",
          text="the registry answers without TLS: add it to insecure-registries in the engine's daemon.json, "
          "or give it a certificate"),
    _rule(Code.DENIED, "unauthorized", "no basic auth credentials", "pull access denied", "(?<!permission )denied: ",
          "authentication required", "insufficient_scope", "access forbidden", "authorization failed",
          "401 unauthorized", "403 forbidden"),
    _rule(Code.CONTAINER_MISSING, "no such container: (?P<container>[^,\\s]*)",
          text="the engine has no container {container}; somebody removed it"),
    _rule(Code.NOT_FOUND, "no such image"),
    _rule(Code.NOT_FOUND, "manifest unknown", "not found: manifest", "(?:repository )?name (?:unknown|not known)",
          r"failed to resolve reference \S+ \S+: not found", "could not fetch content descriptor .*not found",
          r"manifest for \S+ not found"),
    _rule(Code.REGISTRY_UNREACHABLE, r"(?:get|head|post) \\?\"?https?://.*: .*",
          "failed to (?:do request|authorize|fetch)", "connection refused", "no such host", "i/o timeout",
          "tls handshake timeout", "connection reset", r"(?:unexpected )?eof\b", r"client\.timeout exceeded",
          "bad gateway", "service unavailable", "received unexpected http status: 5", r"unexpected status.* 5\d\d ",
          "internal server error", "network is unreachable", "no route to host",
          "temporary failure in name resolution"),
    _rule(Code.ENGINE_UNREACHABLE, "swarm does not have a leader", "context deadline exceeded",
          "no elected primary"),
)  # fmt: skip


def classify(status: int, message: str) -> Failed | Postponed:
    """Return the error for a status and message of the engine: Postponed for transient errors, else Failed.

    Status 0 stands for a message that was not an HTTP response.
    """
    message = message[:_MAX_LENGTH]
    if status == _UNREACHABLE:
        return Postponed(Code.ENGINE_UNREACHABLE, _unreachable_message(message))
    if status == _CONFLICT and "is already in use by container" in message.lower():
        return Failed(Code.NAME_TAKEN, message)
    for rule in _RULES:
        if found := rule.pattern.search(message):
            return _as_absent(status, _translate(rule, found, message))
    if status == _BAD_REQUEST:
        return Failed(Code.BAD_CONFIGURATION, f"the engine objects: {message}")
    return _as_absent(status, Failed(Code.ENGINE_REFUSED, message))


def _unreachable_message(message: str) -> str:
    """Return who does not answer and why, without the brackets that aiodocker and aiohttp add."""
    if (found := _NO_ANSWER.fullmatch(message)) is None:
        return message
    why = "the socket does not exist" if "No such file" in found["why"] else found["why"]
    return f"no Docker Engine answers at {found['host']}: {why}"


def _as_absent(status: int, error: Failed | Postponed) -> Failed | Postponed:
    """Return NotOnEngine for a 404. A transient error stays as it is."""
    if status == _NOT_FOUND and isinstance(error, Failed):
        return NotOnEngine(error.reason.code, error.reason.message)
    return error


def _translate(rule: _Rule, found: re.Match[str], message: str) -> Failed | Postponed:
    if rule.code is Code.RATE_LIMITED:
        return Postponed(rule.code, message, retry_after=retry_after(message))
    words = {name: value or "" for name, value in found.groupdict().items()}
    own = _unwrap(message)
    if rule.code is Code.PORT_TAKEN:
        text = _port_message(own)
    elif rule.code is Code.BAD_CONFIGURATION and not rule.text:
        text = f"the engine objects: {own}"
    else:
        text = f"{rule.text.format(**words)} (the engine: {own})" if rule.text else own
    return Postponed(rule.code, text) if rule.code in _TRANSIENT else Failed(rule.code, text)


def _unwrap(message: str) -> str:
    """Return the message without the prefixes that each layer of the engine adds."""
    return _WRAPPED.sub("", message.strip()).removesuffix(": unknown")


def _port_message(message: str) -> str:
    port = port_of(message)
    if port is None or "address already in use" not in message.lower():
        return message
    return port_held_outside_docker(*port)


def port_held_outside_docker(port: int, protocol: str) -> str:
    """Return the message for a port that no container holds, with the command that finds its process."""
    listens = "ss -lunp" if protocol == "udp" else "ss -ltnp"
    return (
        f"port {port}/{protocol} is taken by a process outside of Docker; on the engine's host, this names it: "
        f"{listens} 'sport = :{port}'"
    )


def port_of(message: str) -> tuple[int, str] | None:
    """Return the port and protocol that an engine's message names."""
    found = _PORT.search(message)
    return None if found is None else (int(found["port"]), (found["protocol"] or found["listens"] or "tcp").lower())


def retry_after(message: str) -> float | None:
    """Return the seconds that a registry asks to wait, or None when the message names no time."""
    found = _RETRY_AFTER.search(message)
    return None if found is None else max(_MIN_RETRY_AFTER, float(found[1]) * _SECONDS[found[2].lower()])
