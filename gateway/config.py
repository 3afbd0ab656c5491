"""The settings: `GATEWAY_…` environment variables, read once at the start. An unknown name stops the start."""

import binascii
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from gateway.installation import data_directory
from gateway.model.errors import InvalidInput
from gateway.model.group_scopes import parse_groups

_PREFIX = "GATEWAY_"
_FILE = "_file"
_SECRETS = frozenset(
    {"database_url", "master_key", "former_master_keys", "alert_urls", "oidc_client_secret", "otlp_headers"}
)
# Variables that Docker and Kubernetes inject for a service called "gateway": they are no settings.
_INJECTED = re.compile(r"GATEWAY_(.*_)?(PORT|SERVICE)(_.*)?")
_KEY_BYTES = 32
#: variables of the command line, which are no settings of a gateway
OF_CLIENT = frozenset({"url", "api_key", "api_key_file", "context"})
# The shortest and the longest poll interval in seconds; the database counts them in 32 bits.
_LEAST_SECONDS, _MOST_SECONDS = 10, 10**9
_MAX_DIGITS = 10
_LEAST_CONNECTIONS = 2  # to PostgreSQL, of a process
_NUMBERS = {"int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number"}

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseModel):
    """Each field is a `GATEWAY_…` variable. A secret may also be the content of the file that `…_FILE` names."""

    model_config = ConfigDict(hide_input_in_errors=True, frozen=True, extra="forbid")

    listen: str = Field("127.0.0.1:8080", description="Address and port of the HTTP server.")
    database_url: SecretStr | None = Field(
        None, description="Address of PostgreSQL; unset: an embedded PostgreSQL in the data directory."
    )
    database_connections: Annotated[int, Field(ge=2, le=1000)] = Field(
        10, description="Connections to PostgreSQL, at most."
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Processes that accept requests; they share the connections to PostgreSQL, at least two for each. "
        "One of them deploys, and replaces another that ends.",
    )
    data_dir: Path = Field(description="Directory of the embedded PostgreSQL and of the master key.")
    docker_host: str = Field(description="The gateway's own Docker Engine: unix:///path or tcp://host:port.")
    master_key: SecretStr | None = Field(
        None,
        description="Base64 of the 32 bytes that encrypt the secrets in the database; unset with the embedded "
        "PostgreSQL: created once, in the data directory.",
    )
    former_master_keys: SecretStr | None = Field(
        None, description="Former master keys, comma-separated, that still decrypt; see docs/keys.md."
    )
    public_url: str | None = Field(
        None, description="URL at which registries reach this gateway, shown in set-up steps."
    )
    rollouts: Annotated[int, Field(ge=1, le=1000)] = Field(32, description="Concurrent rollouts on each engine.")
    swaps: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None,
        description="How many of these rollouts may swap containers at the same time; a higher number makes each "
        "outage longer. Unset: as many as the engine does best, by how long its swaps take.",
    )
    lease: Seconds = Field(
        15, description="Seconds without a heartbeat after which another gateway takes over the rollouts of this one."
    )
    stable_window: Seconds = Field(
        5, description="Seconds a container without a health check must run before it counts as ready."
    )
    health_deadline: Seconds = Field(300, description="Seconds a container has to become healthy.")
    progress_deadline: Seconds = Field(1800, description="Seconds one attempt of a rollout may take in total.")
    watch_window: Annotated[float, Field(ge=0, le=86_400)] = Field(
        120,
        description="Seconds after a rollout in which a failure rolls back to the previous version; 0: never.",
    )
    alert_urls: SecretStr | None = Field(
        None, description="Destinations of alerts, comma-separated Apprise URLs; see docs/health.md."
    )
    kept_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        30, description="Days a replaced version is kept for a rollback, at most."
    )
    pull_stall: Seconds = Field(120, description="Seconds without progress after which a pull is given up.")
    shutdown_grace: Annotated[float, Field(ge=0, le=3600)] = Field(
        20, description="Seconds that running rollouts get to finish on SIGTERM."
    )
    retry_deadline: Seconds = Field(
        21_600, description="Seconds after which a deployment that is retried again and again fails."
    )
    body_limit: Annotated[int, Field(ge=1024, le=64 * 1024**2)] = Field(
        1024**2, description="Maximum size of a request's body in bytes."
    )
    webhook_rate: Annotated[float, Field(gt=0, le=100_000)] = Field(
        1000, description="Requests per second that one endpoint accepts; a burst may be ten seconds' worth."
    )
    trusted_root: Path | None = Field(
        None,
        description="File with the trusted root of Sigstore, as JSON, for gates that ask for signatures of identities; "
        "see docs/gates.md.",
    )
    trusted_proxies: str = Field(
        "",
        description="Networks of reverse proxies, comma-separated; their X-Forwarded-For names the sender where an "
        "endpoint accepts certain networks only.",
    )
    deployments_kept: Annotated[int, Field(ge=1, le=100_000)] = Field(
        200,
        description="Deployments kept for each application; the running version and the versions to roll back to are "
        "always kept.",
    )
    deployment_days: Annotated[int, Field(ge=1, le=3650)] = Field(90, description="Days a deployment is kept.")
    log_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        30, description="Days the steps of a deployment and the log of its container are kept."
    )
    inbox_days: Annotated[int, Field(ge=1, le=3650)] = Field(30, description="Days a delivery is kept.")
    inbox_megabytes: Annotated[int, Field(ge=16, le=1_000_000)] = Field(
        1024, description="Maximum size of the inbox in megabytes; the oldest deliveries are deleted first."
    )
    host_powers: Literal["global", "any"] = Field(
        "global",
        description="Which keys of scope admin may give an application access to its host (directories, networks, "
        "capabilities, servers). global: only unrestricted keys. any: restricted keys too. See docs/keys.md.",
    )
    status_networks: str = Field(
        "",
        description="Networks, comma-separated, that get details at /readyz and /metrics without a key: the addresses "
        "of the engines and their errors.",
    )
    metrics_applications: Annotated[int, Field(ge=0, le=10_000)] = Field(
        100, description="Applications, the oldest first, that /metrics has series of; the others are summed."
    )
    audit_days: Annotated[int, Field(ge=1, le=36_500)] = Field(365, description="Days an audit record is kept.")
    audit_rows: Annotated[int, Field(ge=1000, le=100_000_000)] = Field(
        200_000, description="Maximum number of audit records; refused calls are counted apart, up to the same number."
    )
    reconcile: str = Field(
        "",
        description="Poll interval per registry in seconds, comma-separated (`docker.io=3600,*=600`); finds pushes "
        "whose webhook was lost.",
    )
    discover: str = Field(
        "",
        description="Adopt containers and services by their labels: `labels`, or `labels,watchtower` to read those of "
        "Watchtower too; unset: only those that a person adopts. See docs/labels.md.",
    )
    insecure_registries: str = Field(
        "",
        description="Registries, comma-separated, that may be without TLS or have any certificate; loopback addresses "
        "never need TLS.",
    )
    token_hosts: str = Field(
        "",
        description="Hosts, comma-separated, with or without a port, that may receive a registry's credentials when it "
        "names them as its token service, besides hosts of its own domain; see docs/registries.md.",
    )
    registry_lag: Seconds = Field(
        30, description="Seconds a registry may take after a push event until its tag names the pushed digest."
    )
    trivy: str = Field(
        "trivy", description="Trivy, the scanner of the gate `vulnerabilities`: its path, or its name on the PATH."
    )
    trivy_server: str | None = Field(
        None, description="URL of a `trivy server`, which then has the database; see docs/gates.md."
    )
    trivy_database: str = Field(
        "",
        description="Repository that the database of Trivy is downloaded from, for example "
        "ghcr.io/aquasecurity/trivy-db:2; unset: nothing is downloaded, and an operator puts it into `trivy` in the "
        "data directory.",
    )
    trivy_java_database: str = Field(
        "",
        description="Repository of Trivy's index of Java archives, for example ghcr.io/aquasecurity/trivy-java-db:1; "
        "images with such archives need it.",
    )
    grype: str = Field("grype", description="Grype, for gates whose scanner it is: its path, or its name on the PATH.")
    scout: str = Field(
        "docker-scout",
        description="Docker Scout, for gates whose scanner it is: its path, or its name on the PATH.",
    )
    oidc_issuer: str | None = Field(
        None,
        description="Issuer of OpenID Connect through which people sign in to the dashboard; see docs/dashboard.md.",
    )
    oidc_client_id: str | None = Field(None, description="Client that the issuer knows this gateway as.")
    oidc_client_secret: SecretStr | None = Field(None, description="Secret of that client; unset: it has none.")
    oidc_scopes: str = Field("openid profile email groups", description="Scopes to ask the issuer for.")
    oidc_claim: str = Field("groups", description="Claim that lists a person's groups.")
    oidc_groups: str = Field(
        "",
        validate_default=True,
        description="Which groups may do what: SCOPE=GROUP, comma-separated, for example admin=platform,read=*. "
        "The highest scope counts; * is everybody who signs in.",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="URL of a receiver of OpenTelemetry, over HTTP, that gets a trace of each deployment; unset: "
        "`OTEL_EXPORTER_OTLP_ENDPOINT`, else none. See docs/monitoring.md.",
    )
    otlp_headers: SecretStr | None = Field(
        None,
        description="Headers for it, like name=value,name=value; unset: `OTEL_EXPORTER_OTLP_HEADERS`.",
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning, error.")
    log_format: str = Field("json", pattern="^(json|text)$", description="json or text.")

    @field_validator("listen")
    @classmethod
    def _address(cls, text: str) -> str:
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the last port
            raise ValueError("an address and a port are needed, for example 127.0.0.1:8080")
        return text

    @field_validator("public_url", "trivy_server", "oidc_issuer", "otlp_endpoint")
    @classmethod
    def _public(cls, text: str | None) -> str | None:
        if text is None:
            return None
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("a URL with http:// or https:// is needed, for example https://gateway.example.com")
        return text.rstrip("/")

    @field_validator("trusted_proxies", "status_networks")
    @classmethod
    def _networks(cls, text: str) -> str:
        for network in filter(None, text.split(",")):
            ip_network(network.strip())  # raises ValueError, which says what is wrong
        return text

    @field_validator("reconcile")
    @classmethod
    def _pairs(cls, text: str) -> str:
        for pair in filter(None, text.split(",")):
            domain, _, seconds = pair.strip().partition("=")
            counted = int(seconds) if seconds.isdecimal() and len(seconds) <= _MAX_DIGITS else 0
            if not domain or not _LEAST_SECONDS <= counted <= _MOST_SECONDS:
                raise ValueError(
                    f"{pair.strip()[:100]!r} is not like docker.io=3600, "
                    f"with {_LEAST_SECONDS} to {_MOST_SECONDS} seconds"
                )
        return text

    @field_validator("discover")
    @classmethod
    def _labels(cls, text: str) -> str:
        if (words := _words(text)) and not ({"labels"} <= words <= {"labels", "watchtower"}):
            raise ValueError("it must be labels, or labels,watchtower")
        return text

    @field_validator("oidc_groups")
    @classmethod
    def _groups(cls, text: str, info: ValidationInfo) -> str:
        if not parse_groups(text) and info.data.get("oidc_issuer"):
            raise ValueError("say which groups of the issuer may do what, for example admin=platform,read=*")
        if info.data.get("oidc_issuer") and not (info.data.get("oidc_client_id") and info.data.get("public_url")):
            raise ValueError("GATEWAY_OIDC_CLIENT_ID and GATEWAY_PUBLIC_URL must be set for GATEWAY_OIDC_ISSUER")
        return text

    @field_validator("processes")
    @classmethod
    def _share_connections(cls, processes: int, info: ValidationInfo) -> int:
        connections = info.data.get("database_connections", 0)
        if connections and processes * _LEAST_CONNECTIONS > connections:
            raise ValueError(f"GATEWAY_DATABASE_CONNECTIONS must be at least {processes * _LEAST_CONNECTIONS} for it")
        return processes

    @property
    def reconciled(self) -> dict[str, int]:
        """The poll interval in seconds, by registry; `*` stands for all others."""
        pairs = (pair.strip().partition("=") for pair in self.reconcile.split(",") if pair.strip())
        return {domain: int(seconds) for domain, _, seconds in pairs}

    @property
    def discovers(self) -> frozenset[str]:
        """By which labels containers and services are adopted: `labels`, `watchtower`."""
        return _words(self.discover)

    def of_one_process(self) -> Self:
        """Return the settings of one of its processes, which has its part of the connections."""
        part = self.database_connections // self.processes
        return self.model_copy(update={"processes": 1, "database_connections": part})

    def revealed(self) -> dict[str, object]:
        """Return the values with the secrets, for another process of this gateway; paths are not converted."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in values.items()
        }

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from these variables. Raises InvalidInput, which names the variable, never its value."""
        given = {
            name.removeprefix(_PREFIX).lower(): value
            for name, value in environ.items()
            if name.startswith(_PREFIX) and value != ""
        }
        for name in OF_CLIENT:
            given.pop(name, None)
        for name in [name for name in given if name.endswith(_FILE) and name.removesuffix(_FILE) in _SECRETS]:
            given[name.removesuffix(_FILE)] = _read(name, given.pop(name))
        for name in [name for name in given if name not in cls.model_fields]:
            if _INJECTED.fullmatch(_PREFIX + name.upper()):
                del given[name]
        given.setdefault("data_dir", str(data_directory(environ)))
        given.setdefault("docker_host", environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
        if (endpoint := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")).startswith(("http://", "https://")):
            given.setdefault("otlp_endpoint", endpoint)
        if headers := environ.get("OTEL_EXPORTER_OTLP_HEADERS"):
            given.setdefault("otlp_headers", headers)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InvalidInput("\n".join(_explain(detail) for detail in error.errors())) from error

    def key(self) -> bytes | None:
        """Return the master key, or None if it is not set. Raises InvalidInput if it is not base64 of 32 bytes."""
        if self.master_key is None:
            return None
        key = _decoded(self.master_key.get_secret_value())
        if len(key) != _KEY_BYTES:
            raise InvalidInput("GATEWAY_MASTER_KEY is not base64 of 32 bytes; make one: openssl rand -base64 32")
        return key

    def former_keys(self) -> list[bytes]:
        """Return the former master keys; an item may be a whole key file. Raises InvalidInput."""
        text = self.former_master_keys.get_secret_value() if self.former_master_keys else ""
        held = [_decoded(one) for one in text.replace(",", " ").split()]
        if any(not one or len(one) % _KEY_BYTES for one in held):
            raise InvalidInput(
                "GATEWAY_FORMER_MASTER_KEYS is not a comma-separated list of keys, each base64 of 32 bytes"
            )
        return [one[at : at + _KEY_BYTES] for one in held for at in range(0, len(one), _KEY_BYTES)]


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def _decoded(text: str) -> bytes:
    """Decode base64; return b"" for anything else."""
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _read(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{_PREFIX}{name.upper()}: cannot read {path}: {error}") from error


def _explain(detail: Mapping[str, object]) -> str:
    location = detail["loc"]
    name = str(location[0]) if isinstance(location, tuple) and location else ""
    if detail["type"] == "extra_forbidden":
        advice = "Correct the spelling, or unset it. README.md lists all settings."
        return f"{_PREFIX}{name.upper()} is not a setting. {advice}"
    if detail["type"] in _NUMBERS:
        return f"{_PREFIX}{name.upper()} must be {_NUMBERS[str(detail['type'])]}"
    # Never the value: it may be a secret.
    return f"{_PREFIX}{name.upper()}: {str(detail['msg']).removeprefix('Value error, ')}"


def load() -> Settings:
    """Read the settings, and remove the secrets from the environment: child processes must not get them."""
    settings = Settings.from_environ(os.environ)
    for name in (*_SECRETS, "api_key"):
        os.environ.pop(_PREFIX + name.upper(), None)
    os.environ.pop("OTEL_EXPORTER_OTLP_HEADERS", None)
    return settings
