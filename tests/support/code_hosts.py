"""Hosts of source code, by what their makers publish of their APIs: what they do not describe is refused.

https://docs.github.com/en/rest, https://docs.gitlab.com/api, https://docs.gitea.com/api
"""

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jwt
from joserfc.jwk import RSAKey

TOKEN = "a-token-of-the-host"
_MOST_STATUSES = 1000  # that GitHub takes of one context at one commit

#: for each request: its required fields, and those that it may have, with the values of an enumeration or a type
Fields = Mapping[str, tuple[bool, Any]]
TEXT, NUMBER, FLAG, LIST, OBJECT = str, int, bool, list, dict

DEPLOYMENT: Fields = {
    "ref": (True, TEXT), "task": (False, TEXT), "auto_merge": (False, FLAG), "required_contexts": (False, LIST),
    "payload": (False, (dict, str)), "environment": (False, TEXT), "description": (False, TEXT),
    "transient_environment": (False, FLAG), "production_environment": (False, FLAG),
}  # fmt: skip
DEPLOYMENT_STATUS: Fields = {
    "state": (True, {"error", "failure", "inactive", "in_progress", "queued", "pending", "success"}),
    "target_url": (False, TEXT), "log_url": (False, TEXT), "description": (False, TEXT), "environment": (False, TEXT),
    "environment_url": (False, TEXT), "auto_inactive": (False, FLAG),
}  # fmt: skip
COMMIT_STATUS: Fields = {
    "state": (True, {"error", "failure", "pending", "success"}), "target_url": (False, TEXT),
    "description": (False, TEXT), "context": (False, TEXT),
}  # fmt: skip
RECORD: Fields = {
    "name": (True, TEXT), "digest": (True, TEXT), "version": (False, TEXT),
    "status": (True, {"deployed", "decommissioned"}), "logical_environment": (True, TEXT),
    "physical_environment": (False, TEXT), "cluster": (False, TEXT), "deployment_name": (True, TEXT),
    "tags": (False, OBJECT), "runtime_risks": (False, LIST), "github_repository": (False, TEXT),
    "return_records": (False, FLAG),
}  # fmt: skip
INSTALLATION_TOKEN: Fields = {
    "repositories": (False, LIST), "repository_ids": (False, LIST), "permissions": (False, OBJECT)
}  # fmt: skip
LAB_DEPLOYMENT: Fields = {
    "environment": (True, TEXT), "sha": (True, TEXT), "ref": (True, TEXT), "tag": (True, FLAG),
    "status": (True, {"running", "success", "failed", "canceled"}),
}  # fmt: skip
LAB_UPDATE: Fields = {"status": (True, {"running", "success", "failed", "canceled"})}
LAB_STATUS: Fields = {
    "state": (True, {"pending", "running", "success", "failed", "canceled", "skipped"}), "ref": (False, TEXT),
    "name": (False, TEXT), "context": (False, TEXT), "target_url": (False, TEXT), "description": (False, TEXT),
    "coverage": (False, NUMBER), "pipeline_id": (False, NUMBER),
}  # fmt: skip
LAB_ENVIRONMENT: Fields = {"external_url": (False, TEXT), "tier": (False, TEXT), "description": (False, TEXT)}
TEA_STATUS: Fields = {
    "state": (True, {"pending", "success", "error", "failure", "warning"}), "context": (False, TEXT),
    "description": (False, TEXT), "target_url": (False, TEXT),
}  # fmt: skip


#: of the lists: the parameters that they have, and the size of a page where none is named, and at most
PAGES: Mapping[str, tuple[set[str], str, int, int]] = {
    "github statuses": (set(), "per_page", 30, 100),
    "github deployments": ({"sha", "ref", "task", "environment"}, "per_page", 30, 100),
    "gitlab statuses": ({"ref", "stage", "name", "pipeline_id", "order_by", "sort", "all"}, "per_page", 20, 100),
    "gitlab deployments": (
        {"order_by", "sort", "updated_after", "updated_before", "finished_after", "finished_before", "environment",
         "status"},
        "per_page", 20, 100,
    ),
    "gitlab environments": ({"name", "search", "states"}, "per_page", 20, 100),
    "gitea statuses": ({"sort", "state"}, "limit", 30, 50),
}  # fmt: skip


class Refused(Exception):
    """A request that the API does not describe."""


def checked(body: Any, fields: Fields) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Refused("no object")
    if unknown := body.keys() - fields.keys():
        raise Refused(f"unknown: {sorted(unknown)}")
    for name, (required, kind) in fields.items():
        if name not in body:
            if required:
                raise Refused(f"{name} is missing")
        elif isinstance(kind, set):
            if body[name] not in kind:
                raise Refused(f"{name} is {body[name]!r}")
        elif not isinstance(body[name], kind) or (kind is NUMBER and isinstance(body[name], bool)):
            raise Refused(f"{name} is {body[name]!r}")
    return body


@dataclass
class CodeHost:
    """One host. `disturb` may answer in place of it; what was written is in `written`, in order."""

    url: str = ""
    written: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    permissions: dict[str, str] = field(default_factory=dict)
    app_key: RSAKey | None = None
    disturb: Callable[[web.Request], Awaitable[web.Response | None]] | None = None
    #: called after something was written, before it is answered
    after_write: Callable[[], Awaitable[web.Response | None]] | None = None
    deployments: dict[int, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def states(self, kind: str) -> list[str]:
        return [str(body.get("state") or body.get("status")) for what, _, body in self.written if what == kind]

    async def answer(self, request: web.Request) -> web.Response:
        if self.disturb is not None and (instead := await self.disturb(request)) is not None:
            return instead
        before = len(self.written)
        try:
            found = await self._route(request)
        except Refused as error:
            self.refused.append(f"{request.method} {request.path}: {error}")
            return web.json_response({"message": str(error)}, status=422)
        if self.after_write is not None and len(self.written) > before and (instead := await self.after_write()):
            return instead
        return found

    async def _route(self, request: web.Request) -> web.Response:
        parts = request.raw_path.partition("?")[0].strip("/").split("/")
        api = {"v3": self._github, "v4": self._gitlab, "v1": self._gitea}.get(parts[1])
        if parts[0] != "api" or api is None:
            return web.json_response({"message": "Not Found"}, status=404)
        body = await request.json() if request.can_read_body else None
        return api(request, parts[2:], body)

    def _page(self, request: web.Request, kind: str, found: Iterable[dict[str, Any]]) -> web.Response:
        """Return a page of a list."""
        known, size, usual, most = PAGES[kind]
        if unknown := request.query.keys() - known - {size, "page"}:
            raise Refused(f"unknown: {sorted(unknown)}")
        length, page = min(int(request.query.get(size, usual)), most), int(request.query.get("page", 1))
        listed = list(found)
        more = {"Link": f'<{self.url}{request.path}>; rel="next"'} if len(listed) > page * length else {}
        return web.json_response(listed[(page - 1) * length : page * length], headers=more)

    def add_status(self, of: str, given: dict[str, Any]) -> dict[str, Any]:
        """Put a status to a commit of a repository, `owner/name@sha`, or to a deployment, as anybody may."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        made = {"id": next(self.numbers), "status": given["state"], **given, "created_at": now}
        self.statuses.setdefault(of, []).append(made)
        return made

    def _write(self, kind: str, what: str, body: dict[str, Any], answer: Any, status: int = 201) -> web.Response:
        self.written.append((kind, what, body))
        return web.json_response(answer, status=status)

    # -- GitHub

    def _github(self, request: web.Request, path: list[str], body: Any) -> web.Response:  # noqa: C901, PLR0911, PLR0912 - routes
        if request.headers.get("X-GitHub-Api-Version") != "2022-11-28":
            raise Refused("no version")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        match request.method, path:
            case "GET", ["app"] if self._is_app(token):
                return web.json_response({"id": 1})
            case "GET", ["repos", _, _, "installation"] if self._is_app(token):
                return web.json_response({"id": 77})
            case "POST", ["app", "installations", "77", "access_tokens"] if self._is_app(token):
                given = checked(body, INSTALLATION_TOKEN)
                self.permissions = given["permissions"]
                made = f"ghs_{next(self.numbers)}"
                self.tokens.add(made)
                return web.json_response({"token": made, "expires_at": "2999-01-01T00:00:00Z"}, status=201)
            case _:
                pass
        if token not in self.tokens:
            return web.json_response({"message": "Bad credentials"}, status=401)
        match request.method, path:
            case "GET", ["rate_limit"]:
                return web.json_response({"resources": {}})
            case "GET", ["repos", owner, name, "deployments"]:
                query = request.query
                return self._page(
                    request,
                    "github deployments",
                    (
                        one
                        for one in reversed(self.deployments.values())
                        if one["repository"] == f"{owner}/{name}"
                        and all(query.get(key, one[key]) == one[key] for key in ("sha", "environment", "task"))
                    ),
                )
            case "POST", ["repos", owner, name, "deployments"]:
                given = checked(body, DEPLOYMENT)
                if len(given.get("description", "")) > 140:
                    raise Refused("description is too long")
                number = next(self.numbers)
                made_one = {"id": number, "sha": given["ref"], "repository": f"{owner}/{name}", **given}
                self.deployments[number] = made_one
                return self._write("deployment", str(given["payload"]["deploymentId"]), given, made_one)
            case _, ["repos", _, _, "deployments", number, "statuses"]:
                if int(number) not in self.deployments:
                    return web.json_response({"message": "Not Found"}, status=404)
                return self._states(request, f"d{number}", body, DEPLOYMENT_STATUS, "deployment_status", number)
            case "GET", ["repos", owner, name, "commits", sha, "statuses"]:
                return self._page(request, "github statuses", reversed(self.statuses.get(f"{owner}/{name}@{sha}", [])))
            case "POST", ["repos", owner, name, "statuses", sha]:
                of = f"{owner}/{name}@{sha}"
                return self._states(request, of, body, COMMIT_STATUS, "commit_status", sha)
            case "POST", ["orgs", owner, "artifacts", "metadata", "deployment-record"]:
                given = checked(body, RECORD)
                if not re.fullmatch(r"sha256:[a-f0-9]{64}", given["digest"]) or not given["name"]:
                    raise Refused("digest")
                return self._write("record", owner, given, {}, 200)
            case _:
                return web.json_response({"message": "Not Found"}, status=404)

    def _is_app(self, token: str) -> bool:
        if self.app_key is None:
            return False
        try:
            claims = jwt.decode(token, self.app_key, algorithms=["RS256"]).claims
        except ValueError:
            return False
        now = time.time()
        return bool(claims["iat"] <= now < claims["exp"] <= now + 600 and claims["iss"] == "4711")

    def _states(self, request: web.Request, of: str, body: Any, fields: Fields, kind: str, what: str) -> web.Response:
        if request.method == "GET":
            kind = "gitea statuses" if fields is TEA_STATUS else "github statuses"
            return self._page(request, kind, reversed(self.statuses.get(of, [])))
        given = checked(body, fields)
        if len(given.get("description", "")) > (255 if fields is TEA_STATUS else 140):
            raise Refused("description is too long")
        same = [one for one in self.statuses.get(of, []) if one.get("context") == given.get("context")]
        if fields is COMMIT_STATUS and (not re.fullmatch("[^@]*@[0-9a-f]{40}", of) or len(same) >= _MOST_STATUSES):
            raise Refused("no commit, or too many statuses of this context")
        return self._write(kind, what, given, self.add_status(of, given))

    # -- GitLab

    def _gitlab(self, request: web.Request, path: list[str], body: Any) -> web.Response:  # noqa: C901, PLR0911, PLR0912 - routes
        if request.headers.get("PRIVATE-TOKEN") not in self.tokens:
            return web.json_response({"message": "401 Unauthorized"}, status=401)
        match request.method, path:
            case "GET", ["user"]:
                return web.json_response({"id": 1})
            case "GET", ["projects", project] if "%2F" in project:
                return web.json_response({"id": 9, "default_branch": "trunk"})
            case "GET", ["projects", _, "deployments"]:
                query = request.query
                if ("updated_after" in query) != (query.get("order_by") == "updated_at"):
                    raise Refused("`updated_at` filter and `updated_at` sorting must be paired")
                if query.get("sort") != "desc":
                    raise Refused("the oldest come first")
                mine = [one for one in self.deployments.values() if one["environment"] == query.get("environment")]
                return self._page(request, "gitlab deployments", reversed(mine))
            case "POST", ["projects", _, "deployments"]:
                given = checked(body, LAB_DEPLOYMENT)
                number = next(self.numbers)
                self.deployments[number] = {"id": number, **given}
                name = given["environment"]
                self.environments.setdefault(name, {"id": next(self.numbers), "name": name, "external_url": None})
                return self._write("deployment", str(number), given, self.deployments[number])
            case "GET", ["projects", _, "deployments", number]:
                return web.json_response(self.deployments[int(number)])
            case "PUT", ["projects", _, "deployments", number]:
                given = checked(body, LAB_UPDATE)
                one = self.deployments[int(number)]
                if one["status"] == given["status"]:
                    return web.json_response({"message": "Cannot transition status"}, status=400)
                one["status"] = given["status"]
                return self._write("deployment", number, given, one, 200)
            case "GET", ["projects", _, "environments"]:
                name = request.query.get("name", "")
                found_ones = [one for key, one in self.environments.items() if key == name]
                return self._page(request, "gitlab environments", found_ones)
            case "PUT", ["projects", _, "environments", number]:
                given = checked(body, LAB_ENVIRONMENT)
                (found,) = [one for one in self.environments.values() if one["id"] == int(number)]
                found.update(given)
                return self._write("environment", number, given, found, 200)
            case "GET", ["projects", project, "repository", "commits", sha, "statuses"]:
                name, of = request.query.get("name"), f"{unquote(project)}@{sha}"
                named = [one for one in self.statuses.get(of, []) if name in {None, one["name"]}]
                newest = request.query.get("sort") == "desc"
                return self._page(request, "gitlab statuses", reversed(named) if newest else named)
            case "POST", ["projects", project, "statuses", sha]:
                given, of = checked(body, LAB_STATUS), f"{unquote(project)}@{sha}"
                known = [one for one in self.statuses.get(of, []) if one["name"] == given["name"]]
                if known and known[-1]["status"] == given["state"]:
                    return web.json_response({"message": "Cannot transition status via :x"}, status=400)
                return self._write("commit_status", sha, given, self.add_status(of, given))
            case _:
                return web.json_response({"message": "404 Not found"}, status=404)

    # -- Gitea

    def _gitea(self, request: web.Request, path: list[str], body: Any) -> web.Response:
        if request.headers.get("Authorization", "").removeprefix("token ") not in self.tokens:
            return web.json_response({"message": "token is required"}, status=401)
        match request.method, path:
            case "GET", ["user"]:
                return web.json_response({"message": "token does not have scope"}, status=403)
            case _, ["repos", owner, name, "statuses", sha]:
                return self._states(request, f"{owner}/{name}@{sha}", body, TEA_STATUS, "commit_status", sha)
            case _:
                return web.json_response({"message": "not found"}, status=404)


@asynccontextmanager
async def a_code_host(port: int | None = None) -> AsyncIterator[CodeHost]:
    host = CodeHost()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", host.answer)
    async with TestServer(application, port=port) as server:
        host.url = f"http://127.0.0.1:{server.port}"
        yield host


def sometimes(chance: float, seed: int) -> Callable[[web.Request], Awaitable[web.Response | None]]:
    """Return a disturbance: rate limits in both forms, 5xx, and slow answers."""
    source = random.Random(seed)

    async def disturb(_request: web.Request) -> web.Response | None:
        if source.random() >= chance:
            return None
        match source.randrange(5):
            case 0:
                return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": "1"})
            case 1:
                reset = str(int(time.time()) + 1)
                headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
                return web.json_response({"message": "API rate limit exceeded"}, status=403, headers=headers)
            case 2:
                return web.Response(status=502, body=b"<html>")
            case 3:
                return web.Response(status=500, body=json.dumps({"message": "oops"}).encode())
            case _:
                await asyncio.sleep(0.3)
                return None

    return disturb
