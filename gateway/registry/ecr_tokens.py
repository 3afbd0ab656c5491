"""Tokens of Amazon ECR: https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html

What is asked for is signed by aiobotocore, which also finds out who we are: by keys, a profile, or the role that the
instance, the task or the pod has.
"""

import asyncio
import importlib
import importlib.util
from base64 import b64decode
from contextlib import AsyncExitStack
from datetime import UTC
from typing import Any

from gateway.model.ecr import AwsIdentity
from gateway.model.errors import Code, Failed, InvalidInput, Postponed, RolloutError
from gateway.model.registries import Credentials

_ROLE_SESSION = "pushdeploy"
_DEADLINES = {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 2, "mode": "standard"}}
_THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
_FIRST_SERVER_ERROR = 500
_WANTED = "the aiobotocore package is needed for registries of type ecr: pip install 'pushdeploy[ecr]'"


def refuse_without_client() -> None:
    """Raises InvalidInput where what asks Amazon is not installed."""
    if importlib.util.find_spec("aiobotocore") is None:
        raise InvalidInput(_WANTED, field="registryType")


async def fetch(amazon: AwsIdentity) -> Credentials:
    """Return a token as a login; raises Failed or Postponed."""
    try:
        # What it imports takes a while to read.
        session = await asyncio.to_thread(importlib.import_module, "aiobotocore.session")
    except ImportError as error:
        raise Failed(Code.BAD_CONFIGURATION, _WANTED) from error
    from aiobotocore.config import AioConfig
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await _fetch(session.AioSession(profile=amazon.profile), AioConfig(**_DEADLINES), amazon)
    except ClientError as error:
        raise _refused(amazon, error.response) from error
    except BotoCoreError as error:
        raise _broken(amazon, error) from error


async def _fetch(session: Any, config: Any, amazon: AwsIdentity) -> Credentials:
    keys = _keys(amazon.access_key_id, amazon.secret_access_key)
    async with AsyncExitStack() as stack:
        if amazon.role_arn:
            sts = await stack.enter_async_context(_client(session, "sts", amazon, keys, config))
            external = {"ExternalId": amazon.external_id} if amazon.external_id else {}
            assumed = await sts.assume_role(RoleArn=amazon.role_arn, RoleSessionName=_ROLE_SESSION, **external)
            given = assumed["Credentials"]
            keys = _keys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
        name = "ecr-public" if amazon.public else "ecr"
        client = await stack.enter_async_context(_client(session, name, amazon, keys, config))
        answer = (await client.get_authorization_token())["authorizationData"]
    token = answer if amazon.public else answer[0]
    username, _, password = b64decode(token["authorizationToken"]).decode().partition(":")
    return Credentials(username, password, token["expiresAt"].astimezone(UTC))


def _client(session: Any, name: str, amazon: AwsIdentity, keys: dict[str, str], config: Any) -> Any:
    return session.create_client(name, region_name=amazon.region, config=config, **keys)


def _keys(access_key_id: str, secret_access_key: str, session_token: str = "") -> dict[str, str]:
    """Return the arguments that say who we are, none where that is to be found out."""
    told = {
        "aws_access_key_id": access_key_id,
        "aws_secret_access_key": secret_access_key,
        "aws_session_token": session_token,
    }
    return {name: value for name, value in told.items() if value}


def _refused(amazon: AwsIdentity, answer: Any) -> RolloutError:
    """Tell what Amazon's refusal means."""
    code, said = answer.get("Error", {}).get("Code", ""), answer.get("Error", {}).get("Message", "")
    message = f"Amazon gives no token for ECR in {amazon.region} to {amazon}: {code}: {said}"
    if code in _THROTTLED:
        return Postponed(Code.RATE_LIMITED, message)
    if answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= _FIRST_SERVER_ERROR:
        return Postponed(
            Code.REGISTRY_UNREACHABLE, f"Amazon cannot give a token for ECR in {amazon.region} now: {code}"
        )
    return Failed(Code.DENIED, f"{message} (it takes ecr:GetAuthorizationToken)")


def _broken(amazon: AwsIdentity, error: Exception) -> RolloutError:
    """Tell what it means that Amazon was not asked, or did not answer."""
    from botocore.exceptions import HTTPClientError

    if isinstance(error, HTTPClientError):
        return Postponed(Code.REGISTRY_UNREACHABLE, f"Amazon does not answer in {amazon.region}: {error}")
    return Failed(Code.DENIED, f"there is nobody to ask Amazon for a token as, by {amazon}: {error}")
