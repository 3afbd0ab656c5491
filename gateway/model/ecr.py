"""Amazon ECR: its host names, and the AWS identity for its tokens. It performs no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from gateway.model.errors import InvalidInput
from gateway.model.reference import Domain

ECR_PUBLIC = Domain("public.ecr.aws")
_PUBLIC_REGION = "us-east-1"  # the region that issues tokens for the public gallery
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-requests.html
_HOST = re.compile(
    r"[0-9]+\.dkr(?:[.-]ecr)(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]{1,2}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}")
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}")


@dataclass(frozen=True, slots=True)
class AwsIdentity:
    """The AWS identity that fetches tokens: access keys, a profile or the instance role; `role_arn` is then assumed."""

    region: str
    #: the registry is the public gallery
    public: bool = False
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None

    @classmethod
    def parse(cls, domain: Domain, given: Mapping[str, Any]) -> Self:
        """Parse the fields of a registry on this host. Raises InvalidInput naming the field."""
        fields = {name: str(given.get(name) or "").strip() for name in _AWS_FIELDS}
        if bool(fields["access_key_id"]) != bool(fields["secret_access_key"]):
            missing = "secretAccessKey" if fields["access_key_id"] else "accessKeyId"
            raise InvalidInput("give both accessKeyId and secretAccessKey, or neither", field=missing)
        if fields["access_key_id"] and fields["profile"]:
            raise InvalidInput("give access keys or a profile, not both", field="profile")
        if fields["role_arn"] and not _ROLE.fullmatch(fields["role_arn"]):
            raise InvalidInput(
                "this is not the ARN of a role, for example arn:aws:iam::123456789012:role/pull", field="roleArn"
            )
        if fields["external_id"] and not fields["role_arn"]:
            raise InvalidInput("an external ID needs a role: give roleArn too", field="externalId")
        if fields["external_id"] and not _EXTERNAL_ID.fullmatch(fields["external_id"]):
            raise InvalidInput("an external ID has 2 to 1224 letters, digits or + = , . @ : / -", field="externalId")
        return cls(
            region=_region(domain, fields["region"]),
            public=domain == ECR_PUBLIC,
            access_key_id=fields["access_key_id"],
            secret_access_key=fields["secret_access_key"],
            profile=fields["profile"] or None,
            role_arn=fields["role_arn"] or None,
            external_id=fields["external_id"] or None,
        )

    def __str__(self) -> str:
        who = f"the key {self.access_key_id}" if self.access_key_id else "the instance role"
        who = f"the profile {self.profile}" if self.profile else who
        return f"{self.role_arn}, assumed by {who}" if self.role_arn else who


_AWS_FIELDS = ("region", "access_key_id", "secret_access_key", "profile", "role_arn", "external_id")


def region_of(domain: Domain) -> str | None:
    """Return the region in the host name, or None."""
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
            f"{domain} does not contain its region, unlike ACCOUNT.dkr.ecr.REGION.amazonaws.com: give region",
            field="region",
        )
    if not _REGION.fullmatch(given):
        raise InvalidInput(f"{given[:40]!r} is not a region, for example eu-central-1", field="region")
    return given
