"""Alibaba Cloud Container Registry (ACR). It does not sign: the unguessable path is the only proof.

https://www.alibabacloud.com/help/en/acr/user-guide/use-webhooks

An Enterprise instance has its own host, which its deliveries do not name: set the endpoint's host.
"""

from gateway.model.events import Notification
from gateway.sources._events import notification, push_event
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust


def verify(request: Request, trust: Trust) -> None:
    """Accept every request to the path."""


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    push, repository = body.part("push_data"), body.part("repository")
    event = push_event(
        trust, host=_host(repository), path=_path(repository), tag=push.text("tag"), digest=push.text("digest")
    )
    return notification([event])


def _host(repository: Part) -> str:
    region = repository.text("region")
    return f"registry.{region}.aliyuncs.com" if region else ""


def _path(repository: Part) -> str:
    # Old repositories have capitals in their names, which no client can write.
    apart = f"{repository.text('namespace')}/{repository.text('name')}" if repository.text("name") else ""
    return (repository.text("repo_full_name") or apart).lower()


SOURCE = Source("aliyun", title="Alibaba Cloud", header=None, header_value=None, verify=verify, parse=parse)
