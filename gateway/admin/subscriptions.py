"""Which repository a subscription is for."""

from gateway.model.errors import InvalidInput
from gateway.model.reference import Reference, Repository
from gateway.store import application_images
from gateway.store.database import Connection


async def resolve_repository(connection: Connection, application_id: str, named: str) -> Repository:
    """Return the named repository, or without a name that of the application's image; raises InvalidInput."""
    if named:
        try:
            return Repository.parse(named)
        except InvalidInput as error:
            raise InvalidInput(str(error), field="repository") from error
    image = await application_images.select_image(connection, application_id)
    if image is None:
        raise InvalidInput("the application has no image yet: name the repository", field="repository")
    return Reference.parse(image).repository
