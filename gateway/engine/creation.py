"""The request for an application's next container, with what only the engine can tell."""

from typing import Any

from gateway.applications import Application
from gateway.engine import adoption, containers, dependents, images, log_driver, originals, spec
from gateway.engine.client import Engine
from gateway.engine.containers import Container
from gateway.engine.images import Image
from gateway.engine.runtime import Version
from gateway.reference import Reference


async def request(engine: Engine, application: Application, version: Version, old: Container | None) -> dict[str, Any]:
    """Return it, with the volumes nobody named that the old one holds."""
    body = adoption.carry(spec.creation(application, version), old.mounts if old else ())
    base = application.base
    if spec.is_whole(application):
        body["HostConfig"] |= await log_driver.for_container(engine)
    if base is None:
        return body
    if base.holders:
        present = await dependents.present(engine, base.holders)
        body["HostConfig"] = adoption.repointed(body["HostConfig"], present)
    if image := await find_image(engine, version.reference):
        body["Labels"] = adoption.with_image(body["Labels"], image.image_id)
        if image.image_id == version.digest:
            body["Image"] = image.image_id
    return body


async def find_image(engine: Engine, reference: Reference) -> Image | None:
    """Return the image by its name; by its id, where it never came from a registry."""
    return await images.inspect(engine, str(reference)) or await images.inspect(engine, str(reference.digest))


async def stand_in(engine: Engine, old: Container, name: str) -> None:
    """Make the like of one that will be gone once it stops, to be put back in its stead."""
    found = await containers.inspection(engine, old.container_id)
    if found is not None and await containers.inspect(engine, name) is None:
        await originals.duplicate(engine, found, name)


async def returning(engine: Engine, old: str, stand_in_name: str, serving_name: str, new: str) -> Container | None:
    """Return what is to serve again: for one that has removed itself, or is about to, the like of it."""
    found = await containers.inspect(engine, old)
    if found is not None and (found.running or not found.removes_itself):
        return found
    if made := await containers.inspect(engine, stand_in_name):
        return made
    by_name = await containers.inspect(engine, serving_name)
    put_back_already = by_name is not None and by_name.container_id != new and spec.ORIGIN in by_name.labels
    return by_name if put_back_already else found
