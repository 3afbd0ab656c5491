"""Images on an engine: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import orjson

from gateway.docker.engine.client import Engine, translate_errors
from gateway.docker.runtime import Progress
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed
from gateway.model.reference import Reference
from gateway.model.registries import Credentials
from gateway.single_flight import SingleFlight

_PROGRESS_INTERVAL = 0.3  # seconds; each report is written to the database
_LAYERS_NAMED, _LAYER_NAME = 4, 12  # layers under way that a report names; characters
_LABELS_KEPT = 1024  # images in the cache

_Key: TypeAlias = tuple[str, Credentials | None]


@dataclass(frozen=True, slots=True)
class Image:
    """An image on the engine. `platform` has the form `linux/amd64`."""

    image_id: str
    platform: str
    repo_digests: frozenset[str]
    #: defaults for its containers
    config: dict[str, Any]
    tags: tuple[str, ...]

    def has_digest(self, digest: str) -> bool:
        """Return whether the image has this digest, in any repository.

        The digest of an image that never came from a registry is its id.
        """
        return digest == self.image_id or any(known.endswith(f"@{digest}") for known in self.repo_digests)

    def is_named(self, reference: Reference) -> bool:
        """Return whether the engine knows the image by this repository and digest, as it does when it was pulled."""
        found = (known.partition("@") for known in self.repo_digests)
        return any(
            digest == reference.digest and Reference.parse(name).repository == reference.repository
            for name, _, digest in found
        )


async def inspect(engine: Engine, name: str) -> Image | None:
    """Return the image by reference or id, or None."""
    try:
        found = await engine.call("GET", f"images/{name}/json")
    except NotOnEngine:
        return None
    image = Image(
        image_id=found["Id"],
        platform=f"{found['Os']}/{found['Architecture']}",
        repo_digests=frozenset(found["RepoDigests"] or ()),
        config=found["Config"] or {},
        tags=tuple(found["RepoTags"] or ()),
    )
    _remember_labels(engine, image)
    return image


def _remember_labels(engine: Engine, image: Image) -> None:
    known = engine.image_labels
    if image.image_id not in known and len(known) >= _LABELS_KEPT:
        known.clear()
    known[image.image_id] = image.config.get("Labels") or {}


async def labels(engine: Engine, image_id: str) -> Mapping[str, str]:
    """Return an image's own labels, from a cache, since they never change. Empty if the engine has no such image."""
    if image_id not in engine.image_labels:
        image = await inspect(engine, image_id)
        return (image.config.get("Labels") or {}) if image else {}
    return engine.image_labels[image_id]


class _Layers:
    """Progress of a pull, as one line: of the whole, and of the layers that are under way."""

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
        whole = f"{len(self._done)}/{layers} layers, {current / 1e6:.1f}/{total / 1e6:.1f} MB"
        under_way = [
            f"{layer[:_LAYER_NAME]} {size[0] / 1e6:.1f}/{size[1] / 1e6:.1f}"
            for layer, size in self._sizes.items()
            if layer not in self._done and 0 < size[0] < size[1]
        ]
        return f"{whole}: {', '.join(under_way[:_LAYERS_NAMED])}" if under_way else whole


@dataclass(frozen=True, slots=True)
class _Pulls:
    """The pulls under way on an engine, and their layers, by image and credentials."""

    flights: SingleFlight[tuple[Image, str]] = field(default_factory=SingleFlight)
    layers: dict[_Key, _Layers] = field(default_factory=dict)


_PULLS: WeakKeyDictionary[Engine, _Pulls] = WeakKeyDictionary()


async def pull(
    engine: Engine, reference: Reference, credentials: Credentials | None, *, progress: Progress, stall: float
) -> Image:
    """Pull an image by digest and return it. Raises Failed and Postponed.

    All who want the image meanwhile with the same credentials share one pull, and each reports its progress. The pull
    is aborted after `stall` seconds without a message, and when nobody waits for it any more.
    """
    pulls = _PULLS.setdefault(engine.original, _Pulls())
    key, reported = (f"{reference.repository}@{reference.digest}", credentials), ""
    pulled = asyncio.ensure_future(pulls.flights.join(key, lambda: _pull(engine.original, pulls, key, stall)))
    try:
        while not (await asyncio.wait([pulled], timeout=_PROGRESS_INTERVAL))[0]:
            if (layers := pulls.layers.get(key)) is not None and (summary := layers.summary()) != reported:
                reported = summary
                await progress(summary)
        image, summary = await pulled
    finally:
        pulled.cancel()
        await asyncio.gather(pulled, return_exceptions=True)
    await progress(summary)
    return image


async def _pull(engine: Engine, pulls: _Pulls, key: _Key, stall: float) -> tuple[Image, str]:
    """Pull the image, and return it with a summary of the pull.

    The engine answers 200 before it begins, and a stream that was cut off can look complete. Therefore the image is
    inspected afterwards.
    """
    (name, credentials), layers, clock = key, _Layers(), asyncio.get_running_loop().time
    auth = None if credentials is None else {"username": credentials.username, "password": credentials.password}
    try:
        with _explain_refusal(name, anonymous=credentials is None), translate_errors(waiting_for=f"the pull of {name}"):
            async with (
                asyncio.timeout(stall) as watchdog,
                aclosing(
                    engine.images.pull(name, auth=auth, stream=True)  # type: ignore[type-var]  # it is a generator
                ) as stream,
            ):
                async for message in stream:
                    watchdog.reschedule(clock() + stall)
                    if layers.changed_by(message):
                        pulls.layers[key] = layers
    finally:
        pulls.layers.pop(key, None)
    image = await inspect(engine, name)
    if image is None or not image.has_digest(name.partition("@")[2]):
        raise Postponed(Code.PULL_INTERRUPTED, f"the pull of {name} ended before the image was complete")
    return image, layers.summary()


@contextmanager
def _explain_refusal(name: str, *, anonymous: bool) -> Iterator[None]:
    """Add the image's name, and whether there were credentials, to an error of a pull."""
    try:
        yield
    except Postponed as error:
        if error.reason.code is Code.ENGINE_UNREACHABLE:
            raise
        until = f"; next attempt in {error.retry_after:.0f} s" if error.retry_after else ""
        text = f"the engine cannot pull {name} yet: {error.reason.message}{until}"
        raise Postponed(error.reason.code, text, retry_after=error.retry_after) from error
    except Failed as error:
        login = " without credentials" if anonymous else " with the given credentials"
        how = login if error.reason.code is Code.DENIED else ""
        raise Failed(error.reason.code, f"the engine cannot pull {name}{how}: {error.reason.message}") from error


async def tag(engine: Engine, image_id: str, reference: Reference) -> None:
    """Point the local tag at the image, so that a later `docker compose up` does not go back to the old one."""
    if reference.tag is not None:
        await engine.call(
            "POST",
            f"images/{image_id}/tag",
            params={"repo": str(reference.repository), "tag": reference.tag},
        )


async def untag(engine: Engine, reference: Reference) -> None:
    """Remove the image's digest reference unless a container uses it. Without tags the engine deletes the image."""
    name = f"{reference.repository}@{reference.digest}"
    of_it = orjson.dumps({"ancestor": [name]}).decode()
    with suppress(Failed):
        if not await engine.call("GET", "containers/json", params={"all": 1, "filters": of_it}):
            await engine.call("DELETE", f"images/{name}")


async def images_in_use(engine: Engine) -> frozenset[str]:
    """Return the ids of all images that have containers."""
    found = await engine.call("GET", "containers/json", params={"all": 1})
    return frozenset(one["ImageID"] for one in found)


async def remove(engine: Engine, reference: Reference, *, tag: bool) -> None:
    """Remove the image's digest reference, and with `tag` its tag if that points at this image. Never by force."""
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
