"""GitLab: the webhooks for the end of a pipeline, a job or a deployment, by which an image was pushed.

https://docs.gitlab.com/user/project/integrations/webhooks/

GitLab's registry does not report pushes, so the endpoint's settings name the image. The registry of a self-managed
GitLab can send Distribution's notifications, to the same endpoint. GitLab disables a webhook that fails several times
in a row, so a request that has proven itself is always accepted.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from gateway.model.commits import origin_of
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import STANDARD_PREFIX, verify_credentials, verify_standard_webhook
from gateway.sources import distribution
from gateway.sources._events import ParsedEvent, image_push_event, notification, quote, split_address
from gateway.sources._json import Part, parse_object
from gateway.sources._source import Request, Source, Trust
from gateway.sources._template import check_template, render

_HEADER = "X-Gitlab-Token"
_SIGNATURE_HEADER = "webhook-signature"
_WORDS = frozenset({"project", "ref", "slug", "sha", "short_sha"})
_LONGEST_SLUG = 63
_SHORT_SHA = 8


def verify(request: Request, trust: Trust) -> None:
    """Check the signature where the webhook has a signing token, else the secret token.

    A signature is required as soon as either side has a signing token. A secret token may also come as a bearer token.
    """
    if _SIGNATURE_HEADER in request.headers or trust.secret.startswith(STANDARD_PREFIX):
        verify_standard_webhook(request.headers, trust.secret, request.body, at=request.at)
    else:
        verify_credentials(request.headers, trust.secret, _HEADER.lower())


def parse(request: Request, trust: Trust) -> Notification:
    body = parse_object(request.body)
    if "events" in body:
        return distribution.parse(request, trust)
    return notification([_parse_event(body, trust)])


def origin(request: Request, _trust: Trust) -> Mapping[str, str] | None:
    body = parse_object(request.body)
    address = body.part("project").text("web_url") or body.part("repository").text("homepage")
    return origin_of(address, _words(body)["sha"])


def _parse_event(body: Part, trust: Trust) -> ParsedEvent:
    words, settings = _words(body), trust.settings
    reason = _unfinished(body, settings) or _unwanted(words, settings)
    if reason:
        return Ignored("", reason)
    if "image" not in settings:
        return Ignored("", "no image is named in it: set image=registry.example.com/{project}:{ref} on the endpoint")
    return image_push_event(render(settings["image"], words), trust)


def _unfinished(body: Part, settings: Mapping[str, str]) -> str:
    """Return why the event is not the end that the endpoint waits for, "" where it is."""
    kind = body.text("object_kind")
    awaited = "build" if "job" in settings else "deployment" if "environment" in settings else "pipeline"
    if kind not in {"pipeline", "build", "deployment"}:
        return f"not the end of a pipeline, job or deployment: {quote(kind)}"
    if kind != awaited:
        return f"a {_name(kind)}: this endpoint waits for a {_name(awaited)}"
    if kind == "build" and body.text("build_name") != settings["job"]:
        return f"another job: {quote(body.text('build_name'))}"
    if kind == "deployment" and body.text("environment") != settings["environment"]:
        return f"another environment: {quote(body.text('environment'))}"
    pipeline = body.part("object_attributes")
    if pipeline.text("source") == "merge_request_event":
        return "a merge request's pipeline"
    status = pipeline.text("status") or body.text("build_status") or body.text("status")
    return "" if status == "success" else f"not a success: {quote(status)}"


def _name(kind: str) -> str:
    return "job" if kind == "build" else kind


def _unwanted(words: Mapping[str, str], settings: Mapping[str, str]) -> str:
    if not fnmatchcase(words["project"], settings.get("project", "*").lower()):
        return f"another project: {quote(words['project'])}"
    if not fnmatchcase(words["ref"], settings.get("ref", "*")):
        return f"another branch or tag: {quote(words['ref'])}"
    return ""


def _words(body: Part) -> dict[str, str]:
    """Return what GitLab CI has as CI_PROJECT_PATH, CI_COMMIT_REF_NAME, …_REF_SLUG, …_SHA and …_SHORT_SHA."""
    pipeline = body.part("object_attributes")
    ref = pipeline.text("ref") or body.text("ref")
    sha = pipeline.text("sha") or body.text("sha")
    # A deployment has its commit only in an address.
    sha = sha or body.text("commit_url").rpartition("/commit/")[2]
    return {
        "project": _project(body),
        "ref": ref,
        "slug": re.sub(r"[^a-z0-9]", "-", ref.lower())[:_LONGEST_SLUG].strip("-"),
        "sha": sha,
        "short_sha": sha[:_SHORT_SHA] or body.text("short_sha"),
    }


def _project(body: Part) -> str:
    # Older jobs have the project only in an address.
    path = body.part("project").text("path_with_namespace")
    return (path or split_address(body.part("repository").text("homepage"))[1]).lower()


def check(settings: Mapping[str, str]) -> None:
    check_template(settings.get("image", ""), _WORDS)


SOURCE = Source(
    "gitlab",
    title="GitLab",
    header=_HEADER,
    header_value="{secret}",
    verify=verify,
    parse=parse,
    origin=origin,
    always_accept=True,
    settings={
        "image": "the image that a successful pipeline pushes, as registry.example.com/{project}:{ref}; fields: "
        "{project}, {ref}, {slug}, {sha} and {short_sha}.",
        "project": "deploy only for this project, as group/name; * stands for anything.",
        "ref": "deploy only for this branch or tag; * stands for anything.",
        "job": "deploy when this job succeeds, instead of the pipeline.",
        "environment": "deploy when a deployment to this environment succeeds, instead of the pipeline.",
    },
    check=check,
)
