"""The form of a declaration: what each object may say. It performs no I/O.

Names are those of the API. An object that is named here is as the declaration says: what it does not say has its
default. Objects that are not named stay as they are.
"""

# ruff: noqa: RUF012  # pydantic copies defaults

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, create_model

from gateway.model.alerts import EventKind
from gateway.model.api_keys import ScopeName
from gateway.model.configuration import Configuration
from gateway.model.declared.secrets import Form, SecretFrom
from gateway.model.mounts import MountType
from gateway.model.ports import HostIp, PortNumber, Protocol, PublishMode
from gateway.model.tag_policies import Rule

DEFAULT_NAME = "default"
MAX_OBJECTS = 1000

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=255)]
Text: TypeAlias = Annotated[str, Field(max_length=100_000)]
#: the name of an application, where only one has it, or PROJECT/ENVIRONMENT/NAME
ApplicationName: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=800,
        description="Name of an application, or PROJECT/ENVIRONMENT/NAME if several have it.",
    ),
]


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Value: TypeAlias = Annotated[
    str, Field(max_length=1_000_000), BeforeValidator(_number_as_text, json_schema_input_type=str | int)
]
VariableName: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000)]
Variables: TypeAlias = Annotated[
    dict[VariableName, Value],
    Field(description="Variables and their values. Quote what is no text: true, 1.10. Secrets belong into envFrom."),
]
VariablesFrom: TypeAlias = Annotated[
    dict[VariableName, SecretFrom], Field(description="Variables whose values come from elsewhere.")
]


class PortForm(Form):
    """A published port."""

    target_port: PortNumber
    published_port: PortNumber
    protocol: Protocol = "tcp"
    publish_mode: PublishMode = "ingress"
    """`host`: on each node that runs a task. `ingress`: through the routing mesh of the Swarm."""
    host_ip: HostIp | None = None
    """Address of the host on which the port is published. Null: all addresses."""


class MountForm(Form):
    """A volume, a directory of the host (bind), or a file that is copied into the container."""

    type: MountType = "volume"
    source: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Name of the volume, directory on the host, or name of the file; by default the last part of `target`."""
    target: Annotated[str, Field(min_length=1, max_length=4096)]
    read_only: bool = False
    content: str | None = None
    """Content of a file that is no secret."""
    content_from: SecretFrom | None = None


class SubscriptionForm(Form):
    """Which pushes deploy the application, besides those of its own image: a repository and a tag policy."""

    repository: Annotated[str, Field(max_length=512)] | None = None
    """Null: the repository of the application's image."""
    policy: Rule = Rule.EXACT
    pattern: str = ""
    include: Annotated[list[str], Field(max_length=32)] = []
    exclude: Annotated[list[str], Field(max_length=32)] = []
    prereleases: bool = False
    allow_downgrade: bool = False


class GateForm(Form):
    """What deployments must pass before their image is pulled."""

    kind: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Null: the name is the kind."""
    rule: dict[str, Any] = {}
    """Its fields depend on the kind; see docs/gates.md. `follows` of a promotion is the name of an application."""
    secret_from: SecretFrom | None = None
    """Where the gate needs one and this is null: one is made, and printed once."""
    enabled: bool = True
    """False: turns off the inherited gate of this name."""
    required: bool = False
    """A nearer gate of this name neither replaces it nor turns it off."""


Gates: TypeAlias = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=63)], GateForm],
    Field(max_length=20, description="All gates that are set here, by name."),
]


class _OwnApplicationFields(Form):
    description: Text | None = None
    docker_image: Text | None = None
    registry_url: Text | None = None
    username: Text | None = None
    """User name for the image's registry."""
    password_from: SecretFrom | None = None
    env: Variables = {}
    env_from: VariablesFrom = {}
    auto_deploy: bool = True
    """Whether a push of its image deploys it."""
    server: Name | None = None
    """Server where it is first deployed. Null: the gateway's own engine."""
    adopt: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$")] | None = None
    """Name of a container, or a Swarm service, that the application takes over where it does not exist yet."""
    reconcile: Annotated[int, Field(ge=0, le=30 * 86_400)] | None = None
    """Seconds between polls for missed pushes. 0: never. Null: the gateway's setting for the registry."""
    subscriptions: Annotated[list[SubscriptionForm], Field(max_length=100)] = []
    gates: Gates = {}
    ports: list[PortForm] = []
    mounts: list[MountForm] = []


def _settings() -> dict[str, Any]:
    """Return the fields of a configuration, but for those whose rows have ids."""
    return {
        name: (
            Annotated[field.annotation, *field.metadata, Field(description=field.description)],
            field.get_default(call_default_factory=True),
        )
        for name, field in Configuration.model_fields.items()
        if name not in {"ports", "mounts"}
    }


ApplicationForm: Any = create_model(
    "ApplicationForm",
    __base__=_OwnApplicationFields,
    __doc__="An application: what application.update takes, its subscriptions and its gates.",
    **_settings(),
)

Applications: TypeAlias = dict[Name, ApplicationForm]


class EnvironmentForm(Form):
    """A part of a project, with variables of its own."""

    description: Text | None = None
    env: Variables = {}
    env_from: VariablesFrom = {}
    gates: Gates = {}
    applications: Applications = {}


class ProjectForm(Form):
    """A group of applications with shared variables. Each project has the environment production."""

    description: Text | None = None
    env: Variables = {}
    env_from: VariablesFrom = {}
    gates: Gates = {}
    environments: dict[Name, EnvironmentForm] = {}


class GroupForm(Form):
    """Applications that go out together, in waves."""

    description: Text = ""
    settle: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds for which deployments of members are gathered. Null: each goes out by itself."""
    members: dict[ApplicationName, Annotated[int, Field(ge=1, le=1000)]] = {}
    """The wave of each member. A wave moves when the one before has succeeded."""


class WebhookForm(Form):
    """A webhook. Its path, and a secret that was made for it, are printed once, when it is made."""

    source: Annotated[str, Field(min_length=1, max_length=100)]
    secret_from: SecretFrom | None = None
    """Null: one is made. A changed one leaves the previous one valid for a day."""
    host: Annotated[str, Field(max_length=512)] | None = None
    """The registry's public host."""
    aliases: Annotated[list[str], Field(max_length=200)] = []
    settings: dict[str, str] = {}
    repositories: Annotated[list[str], Field(max_length=200)] = []
    """Repositories that it may report, as globs. None: any."""
    networks: Annotated[list[str], Field(max_length=200)] = []
    """Networks that it accepts requests from. None: any."""
    rate: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Requests per minute. Null: the gateway's setting."""
    enabled: bool = True


class AlertForm(Form):
    """A receiver, and which events it gets: of all applications, of those of a project, or of one."""

    receiver: Literal["apprise", "webhook", "github", "gitlab", "gitea"]
    address: Annotated[str, Field(max_length=20_000)] | None = None
    """Of a host of source code. Those of apprise and webhook may have secrets: `addressFrom`."""
    address_from: SecretFrom | None = None
    secret_from: SecretFrom | None = None
    """Of a webhook. Null: one is made, and printed once."""
    token_from: SecretFrom | None = None
    app_id: Annotated[str, Field(max_length=100)] | None = None
    """Of a GitHub App, in place of a token."""
    private_key_from: SecretFrom | None = None
    repositories: Annotated[list[Annotated[str, Field(min_length=1, max_length=300)]], Field(max_length=100)] = []
    """The repositories whose commits get a status. None: all that the token reaches."""
    artifact_record: bool = False
    application: ApplicationName | None = None
    project: Name | None = None
    events: Annotated[list[EventKind], Field(min_length=1, max_length=20)] | None = None
    """Null: what is usual for the receiver; see docs/alerts.md."""
    quiet_hours: Annotated[list[dict[str, Any]], Field(max_length=20)] = []
    """When nothing is sent, as the windows of a gate; it is sent after that."""
    allow_private: bool = False
    enabled: bool = True


class RegistryForm(Form):
    """A login for all images of a registry, or of a path in it."""

    registry_url: Annotated[str, Field(max_length=512)] = ""
    """Address, for example ghcr.io or registry.example.com:5000/team. Default: Docker Hub."""
    registry_type: Literal["cloud", "ecr"] = "cloud"
    """`cloud`: user name and password. `ecr`: Amazon ECR, with an AWS identity."""
    username: Annotated[str, Field(max_length=255)] | None = None
    password_from: SecretFrom | None = None
    """Password, token, or the whole text of a key file."""
    image_prefix: Annotated[str, Field(max_length=255)] | None = None
    ca_certificate: Annotated[str, Field(max_length=100_000)] | None = None
    """PEM certificates to trust for this registry, in addition to those of the system."""
    region: Annotated[str, Field(max_length=255)] | None = None
    access_key_id: Annotated[str, Field(max_length=255)] | None = None
    secret_access_key_from: SecretFrom | None = None
    profile: Annotated[str, Field(max_length=255)] | None = None
    role_arn: Annotated[str, Field(max_length=2048)] | None = None
    external_id: Annotated[str, Field(max_length=1224)] | None = None


class ServerForm(Form):
    """A remote machine with a Docker Engine."""

    host: Annotated[str, Field(min_length=1, max_length=512)]
    """unix:///path, tcp://host:port or ssh://user@host:port"""
    description: Text = ""
    tls_ca_from: SecretFrom | None = None
    tls_cert_from: SecretFrom | None = None
    tls_key_from: SecretFrom | None = None
    ssh_key_from: SecretFrom | None = None
    known_hosts_from: SecretFrom | None = None


class KeyForm(Form):
    """An API key. It is printed once, when it is made."""

    scope: ScopeName
    """`read`: see all but secrets. `deploy`: also deploy. `admin`: everything."""
    applications: Annotated[list[ApplicationName], Field(max_length=1000)] | None = None
    """Applications that the key is for. Null, with `projects` null too: an unrestricted key."""
    projects: Annotated[list[Name], Field(max_length=1000)] | None = None


class DeclarationForm(Form):
    """A declaration."""

    declaration: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")] = DEFAULT_NAME
    """Name of the files that are applied together. The gateway remembers what it made for it; only that is pruned."""
    applications: Applications = {}
    """Applications of the environment production in the project Default."""
    projects: dict[Name, ProjectForm] = {}
    groups: dict[Name, GroupForm] = {}
    webhooks: dict[Name, WebhookForm] = {}
    alerts: dict[Name, AlertForm] = {}
    registries: dict[Name, RegistryForm] = {}
    servers: dict[Name, ServerForm] = {}
    keys: dict[Name, KeyForm] = {}
