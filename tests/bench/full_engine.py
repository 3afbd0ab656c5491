"""An engine in a program of its own that answers in protocol and says that it runs many containers.

python -m tests.bench.full_engine SOCKET COUNT
"""

import asyncio
import sys

from aiohttp import web

ENGINE = "full-engine"
DIGEST = f"sha256:{'d' * 64}"
_IMAGE = f"sha256:{'a' * 64}"


def _container(number: int) -> dict[str, object]:
    labels = {
        "gateway.application": f"a{number}",
        "gateway.deployment": f"d{number}",
        "gateway.attempt": "1",
        "gateway.digest": DIGEST,
        "gateway.image": "acme/web:latest",
    }
    return {
        "Id": f"{number:064x}",
        "Names": [f"/a{number}"],
        "ImageID": _IMAGE,
        "State": "running",
        "Status": "Up 3 days (healthy)",
        "Labels": labels,
        "Mounts": [],
        "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "b" * 64, "IPAddress": "172.17.0.2"}}},
    }


def _application(count: int) -> web.Application:
    containers = [_container(number) for number in range(count)]
    info = {
        "ID": ENGINE,
        "Name": ENGINE,
        "ServerVersion": "28.0.0",
        "OSType": "linux",
        "Architecture": "x86_64",
        "Swarm": {"LocalNodeState": "inactive"},
    }
    image = {
        "Id": _IMAGE,
        "Os": "linux",
        "Architecture": "amd64",
        "RepoDigests": [f"acme/web@{DIGEST}"],
        "RepoTags": ["acme/web:latest"],
        "Config": {"Labels": {}},
    }

    async def answer(request: web.Request) -> web.StreamResponse:
        match request.path.rpartition("/v1.")[2].partition("/")[2] or request.path.lstrip("/"):
            case "version":
                return web.json_response({"ApiVersion": "1.48"})
            case "info":
                return web.json_response(info)
            case "networks":
                return web.json_response([{"Id": "b" * 64, "Name": "bridge"}])
            case "containers/json":
                return web.json_response(containers)
            case "events":
                response = web.StreamResponse()
                await response.prepare(request)
                await asyncio.Event().wait()
                return response
            case _:
                return web.json_response(image)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application


if __name__ == "__main__":
    web.run_app(_application(int(sys.argv[2])), path=sys.argv[1], print=None, access_log=None)
