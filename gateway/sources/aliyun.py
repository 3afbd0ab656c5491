"""Alibaba Cloud's Container Registry (ACR). It signs nothing: the unguessable path is the only proof.

https://www.alibabacloud.com/help/en/acr/user-guide/use-webhooks

An Enterprise instance has a host of its own, which its notifications do not tell: the endpoint's host does.
"""

from gateway.model.events import Notification
from gateway.sources._events import notification, push_event
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust


def verify(request: Request, trust: Trust) -> None:
    """Whoever knew the path may speak."""


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    push, repository = body.part("push_data"), body.part("repository")
    said = push_event(
        trust, host=_host(repository), path=_path(repository), tag=push.text("tag"), digest=push.text("digest")
    )
    return notification([said])


def _host(repository: Part) -> str:
    region = repository.text("region")
    return f"registry.{region}.aliyuncs.com" if region else ""


def _path(repository: Part) -> str:
    # Old names had capitals, which no client can write.
    apart = f"{repository.text('namespace')}/{repository.text('name')}" if repository.text("name") else ""
    return (repository.text("repo_full_name") or apart).lower()


SOURCE = Source("aliyun", header=None, header_value=None, verify=verify, parse=parse)
