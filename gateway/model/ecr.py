"""Amazon ECR: which hosts are its own, and as whom its tokens are asked for. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from gateway.model.errors import InvalidInput
from gateway.model.reference import Domain

ECR_PUBLIC = Domain("public.ecr.aws")
_PUBLIC_REGION = "us-east-1"  # the one that gives tokens for the public gallery
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-requests.html
_HOST = re.compile(
    r"[0-9]+\.dkr(?:[.-]ecr)(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}")
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}")


@dataclass(frozen=True, slots=True)
class AwsIdentity:
    """As whom tokens are asked for: keys, a profile, or whom the machine's own role makes us; then `role_arn`."""

    region: str
    #: of the public gallery
    public: bool = False
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None

    @classmethod
    def parse(cls, domain: Domain, given: Mapping[str, Any]) -> Self:
        """Parse what was given for a registry of this host; raises InvalidInput naming the field."""
        told = {name: str(given.get(name) or "").strip() for name in _AWS_FIELDS}
        if bool(told["access_key_id"]) != bool(told["secret_access_key"]):
            missing = "secretAccessKey" if told["access_key_id"] else "accessKeyId"
            raise InvalidInput("accessKeyId and secretAccessKey go together: give both, or neither", field=missing)
        if told["access_key_id"] and told["profile"]:
            raise InvalidInput("keys or a profile are used, not both", field="profile")
        if told["role_arn"] and not _ROLE.fullmatch(told["role_arn"]):
            raise InvalidInput("a role is needed, as in arn:aws:iam::123456789012:role/pull", field="roleArn")
        if told["external_id"] and not told["role_arn"]:
            raise InvalidInput("an external id belongs to a role: give roleArn too", field="externalId")
        if told["external_id"] and not _EXTERNAL_ID.fullmatch(told["external_id"]):
            raise InvalidInput("2 to 1224 letters, digits and + = , . @ : / - are needed", field="externalId")
        return cls(
            region=_region(domain, told["region"]),
            public=domain == ECR_PUBLIC,
            access_key_id=told["access_key_id"],
            secret_access_key=told["secret_access_key"],
            profile=told["profile"] or None,
            role_arn=told["role_arn"] or None,
            external_id=told["external_id"] or None,
        )

    def __str__(self) -> str:
        who = f"the key {self.access_key_id}" if self.access_key_id else "the machine's own role"
        who = f"the profile {self.profile}" if self.profile else who
        return f"{self.role_arn}, assumed by {who}" if self.role_arn else who


_AWS_FIELDS = ("region", "access_key_id", "secret_access_key", "profile", "role_arn", "external_id")


def region_of(domain: Domain) -> str | None:
    """Return the region that the host's name tells."""
    if domain == ECR_PUBLIC:
        return _PUBLIC_REGION
    named = _HOST.fullmatch(domain)
    return named["region"] if named else None


def _region(domain: Domain, given: str) -> str:
    named = region_of(domain)
    if named is not None:
        if given not in {"", named}:
            raise InvalidInput(f"{domain} is in {named}", field="region")
        return named
    if not given:
        raise InvalidInput(
            f"{domain} does not tell its region, as ACCOUNT.dkr.ecr.REGION.amazonaws.com does: give it", field="region"
        )
    if not _REGION.fullmatch(given):
        raise InvalidInput(f"{given[:40]!r} is not a region, as in eu-central-1", field="region")
    return given
