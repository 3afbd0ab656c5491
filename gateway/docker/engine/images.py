"""Images on the engine."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.docker.engine.client import Engine, translate_errors
from gateway.docker.runtime import Progress
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed
from gateway.model.reference import Reference
from gateway.model.registries import Credentials

_PROGRESS_INTERVAL = 0.3  # seconds; each telling is a write
_LABELS_KEPT = 1024  # images whose labels are remembered


@dataclass(frozen=True, slots=True)
class Image:
    """An image the engine has; `platform` is `linux/amd64`."""

    image_id: str
    platform: str
    repo_digests: frozenset[str]
    #: what its maker chose for the containers made of it
    config: dict[str, Any]
    tags: tuple[str, ...]

    def has_digest(self, digest: str) -> bool:
        """Tell whether the engine got it under this digest, of any repository: the digest is what decides.

        What never came from a registry has none but its id.
        """
        return digest == self.image_id or any(known.endswith(f"@{digest}") for known in self.repo_digests)


async def inspect(engine: Engine, name: str) -> Image | None:
    """Return the image of this reference or id, or None where the engine does not have it."""
    try:
        found = await engine.call("GET", f"images/{name}/json")
    except NotOnEngine:
        return None
    return Image(
        image_id=found["Id"],
        platform=f"{found['Os']}/{found['Architecture']}",
        repo_digests=frozenset(found["RepoDigests"] or ()),
        config=found["Config"] or {},
        tags=tuple(found["RepoTags"] or ()),
    )


async def labels(engine: Engine, image_id: str) -> Mapping[str, str]:
    """Return an image's own labels, which never change; none where the engine does not have it any more."""
    known = engine.image_labels
    if image_id not in known:
        if (image := await inspect(engine, image_id)) is None:
            return {}
        if len(known) >= _LABELS_KEPT:
            known.clear()
        known[image_id] = image.config.get("Labels") or {}
    return known[image_id]


async def pull(
    engine: Engine, reference: Reference, credentials: Credentials | None, *, progress: Progress, stall: float
) -> Image:
    """Pull an image by digest and return it as the engine then has it.

    The engine answers 200 before it begins and a stream cut short may look like an end, so only what it has
    afterwards counts. Given up after `stall` seconds without a word.
    """
    auth = None if credentials is None else {"username": credentials.username, "password": credentials.password}
    layers, clock = _Layers(), asyncio.get_running_loop().time
    told = clock()
    name = f"{reference.repository}@{reference.digest}"
    with _explain_refusal(name, anonymous=credentials is None), translate_errors(waiting_for=f"the pull of {name}"):
        async with (
            asyncio.timeout(stall) as watchdog,
            aclosing(
                engine.images.pull(name, auth=auth, stream=True)  # type: ignore[type-var]  # it is a generator
            ) as stream,
        ):
            async for message in stream:
                watchdog.reschedule(clock() + stall)
                if layers.changed_by(message) and clock() - told >= _PROGRESS_INTERVAL:
                    told = clock()
                    await progress(layers.summary())
    await progress(layers.summary())
    image = await inspect(engine, name)
    if image is None or not image.has_digest(str(reference.digest)):
        raise Postponed(Code.PULL_INTERRUPTED, f"the pull of {name} broke off before the image was complete")
    return image


@contextmanager
def _explain_refusal(name: str, *, anonymous: bool) -> Iterator[None]:
    """Let a refusal say what could not be pulled, and with which login."""
    try:
        yield
    except Postponed as error:
        if error.reason.code is Code.ENGINE_UNREACHABLE:
            raise
        until = f"; it is tried again in {error.retry_after:.0f} s" if error.retry_after else ""
        text = f"the engine cannot pull {name} yet: {error.reason.message}{until}"
        raise Postponed(error.reason.code, text, retry_after=error.retry_after) from error
    except Failed as error:
        login = " without a login" if anonymous else " with the login it was given"
        how = login if error.reason.code is Code.DENIED else ""
        raise Failed(error.reason.code, f"the engine cannot pull {name}{how}: {error.reason.message}") from error


class _Layers:
    """What the stream has said so far, in one line."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()

    def changed_by(self, message: dict[str, Any]) -> bool:
        layer, status = message.get("id", ""), message.get("status", "")
        detail = message.get("progressDetail") or {}
        if status in {"Pull complete", "Already exists"}:
            self._done.add(layer)
        elif status == "Downloading" and detail.get("total"):
            self._sizes[layer] = (detail.get("current", 0), detail["total"])
        elif status == "Pulling fs layer":
            self._sizes.setdefault(layer, (0, 0))
        else:
            return False
        return True

    def summary(self) -> str:
        layers = len(self._done | set(self._sizes))
        current = sum(size[0] if layer not in self._done else size[1] for layer, size in self._sizes.items())
        total = sum(size[1] for size in self._sizes.values())
        return f"{len(self._done)}/{layers} layers, {current / 1e6:.1f}/{total / 1e6:.1f} MB"


async def tag(engine: Engine, image_id: str, reference: Reference) -> None:
    """Let the local tag point at the image, so that a later `docker compose up` does not go back."""
    if reference.tag is not None:
        await engine.call(
            "POST",
            f"images/{image_id}/tag",
            params={"repo": str(reference.repository), "tag": reference.tag},
        )


async def untag(engine: Engine, reference: Reference) -> None:
    """Forget the image under its digest, unless a container is of it: the engine removes it where no tag is left."""
    name = f"{reference.repository}@{reference.digest}"
    of_it = orjson.dumps({"ancestor": [name]}).decode()
    with suppress(Failed):
        if not await engine.call("GET", "containers/json", params={"all": 1, "filters": of_it}):
            await engine.call("DELETE", f"images/{name}")


async def images_in_use(engine: Engine) -> frozenset[str]:
    """Return the ids of the images that containers are of, whoever made them."""
    found = await engine.call("GET", "containers/json", params={"all": 1})
    return frozenset(one["ImageID"] for one in found)


async def remove(engine: Engine, reference: Reference, *, tag: bool) -> None:
    """Forget the image under its digest, and with `tag` under its tag where that names it; not by force."""
    image = await inspect(engine, f"{reference.repository}@{reference.digest}")
    if image is None:
        return
    name = f"{reference.repository}:{reference.tag}"
    if tag and reference.tag is not None:
        tagged = await inspect(engine, name)
        if tagged is not None and tagged.image_id == image.image_id:
            await _remove_name(engine, name)
    await _remove_name(engine, f"{reference.repository}@{reference.digest}")


async def _remove_name(engine: Engine, name: str) -> None:
    with suppress(Failed):
        await engine.call("DELETE", f"images/{name}")
