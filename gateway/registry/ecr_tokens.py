"""Fetch tokens of Amazon ECR.

https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html

aiobotocore signs the requests, and finds the AWS credentials: keys, a profile, or the role of the instance, task or
pod.
"""

import importlib.util
from base64 import b64decode
from contextlib import AsyncExitStack
from datetime import UTC
from typing import Any

from gateway.loading import load
from gateway.model.ecr import AwsIdentity
from gateway.model.errors import Code, Failed, InvalidInput, Postponed, RolloutError
from gateway.model.registries import Credentials

_ROLE_SESSION = "pushdeploy"
_TIMEOUTS = {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 2, "mode": "standard"}}
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
_SERVER_ERROR = 500
_MISSING_PACKAGE = "the aiobotocore package is needed for registries of type ecr: pip install 'pushdeploy[ecr]'"


def require_client() -> None:
    """Raise InvalidInput where aiobotocore is not installed."""
    if importlib.util.find_spec("aiobotocore") is None:
        raise InvalidInput(_MISSING_PACKAGE, field="registryType")


async def fetch(identity: AwsIdentity) -> Credentials:
    """Return a token as credentials; raises Failed or Postponed."""
    try:
        await load("aiobotocore.session", "aiobotocore.config")
        from aiobotocore.config import AioConfig
        from aiobotocore.session import AioSession
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise Failed(Code.BAD_CONFIGURATION, _MISSING_PACKAGE) from error

    try:
        return await _fetch(AioSession(profile=identity.profile), AioConfig(**_TIMEOUTS), identity)
    except ClientError as error:
        raise _client_error(identity, error.response) from error
    except BotoCoreError as error:
        raise _connection_error(identity, error) from error


async def _fetch(session: Any, config: Any, identity: AwsIdentity) -> Credentials:
    keys = _key_arguments(identity.access_key_id, identity.secret_access_key)
    async with AsyncExitStack() as stack:
        if identity.role_arn:
            sts = await stack.enter_async_context(_client(session, "sts", identity, keys, config))
            external = {"ExternalId": identity.external_id} if identity.external_id else {}
            assumed = await sts.assume_role(RoleArn=identity.role_arn, RoleSessionName=_ROLE_SESSION, **external)
            given = assumed["Credentials"]
            keys = _key_arguments(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        name = "ecr-public" if identity.public else "ecr"
        client = await stack.enter_async_context(_client(session, name, identity, keys, config))
        answer = (await client.get_authorization_token())["authorizationData"]
    token = answer if identity.public else answer[0]
    username, _, password = b64decode(token["authorizationToken"]).decode().partition(":")
    return Credentials(username, password, token["expiresAt"].astimezone(UTC))


def _client(session: Any, name: str, identity: AwsIdentity, keys: dict[str, str], config: Any) -> Any:
    return session.create_client(name, region_name=identity.region, config=config, **keys)


def _key_arguments(access_key_id: str, secret_access_key: str, session_token: str = "") -> dict[str, str]:
    """Return the arguments with these keys, none where aiobotocore is to find them itself."""
    arguments = {
        "aws_access_key_id": access_key_id,
        "aws_secret_access_key": secret_access_key,
        "aws_session_token": session_token,
    }
    return {name: value for name, value in arguments.items() if value}


def _client_error(identity: AwsIdentity, answer: Any) -> RolloutError:
    """Return the error for an error response of AWS."""
    code, text = answer.get("Error", {}).get("Code", ""), answer.get("Error", {}).get("Message", "")
    message = f"Amazon denies a token for ECR in {identity.region} to {identity}: {code}: {text}"
    if code in _THROTTLED:
        return Postponed(Code.RATE_LIMITED, message)
    if answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= _SERVER_ERROR:
        return Postponed(
            Code.REGISTRY_UNREACHABLE, f"Amazon cannot issue a token for ECR in {identity.region} now: {code}"
        )
    return Failed(Code.DENIED, f"{message} (the permission ecr:GetAuthorizationToken is required)")


def _connection_error(identity: AwsIdentity, error: Exception) -> RolloutError:
    """Return the error for a request that was not sent, or not answered."""
    from botocore.exceptions import HTTPClientError

    if isinstance(error, HTTPClientError):
        return Postponed(Code.REGISTRY_UNREACHABLE, f"Amazon does not answer in {identity.region}: {error}")
    return Failed(Code.DENIED, f"cannot find AWS credentials to request a token as {identity}: {error}")
