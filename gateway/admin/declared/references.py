"""Names in declarations, and the ids that they stand for."""

from collections.abc import Collection, Iterable, Mapping

from gateway.model.api_keys import Caller, Grants
from gateway.model.declared.objects import Declared, Kind, ObjectPath
from gateway.model.errors import Conflict, InvalidInput
from gateway.model.projects import DEFAULT, PRODUCTION
from gateway.store import declared, groups, resource_owners
from gateway.store.database import Connection
from gateway.store.resource_owners import ResourceKind

_PLACES = frozenset({Kind.PROJECT, Kind.ENVIRONMENT})

#: the full names of applications, by what others may call them
ApplicationNames = Mapping[str, Collection[str]]


def application_names(objects: Iterable[Declared]) -> ApplicationNames:
    """Return how the applications of a declaration may be called."""
    found: dict[str, set[str]] = {}
    for one in objects:
        if one.path.kind is Kind.APPLICATION:
            for name in {one.path.name, one.path.full_name}:
                found.setdefault(name, set()).add(one.path.full_name)
    return found


class References:
    """Looks up what the caller's key is for, in one transaction.

    `expected` are applications that the declaration makes, if they are missing.
    """

    def __init__(self, connection: Connection, caller: Caller, expected: ApplicationNames | None = None) -> None:
        self.connection = connection
        self._caller = caller
        self._expected = expected or {}
        #: projects and environments that were found: each object of a plan asks for them several times
        self._places: dict[ObjectPath, str] = {}

    async def find(self, path: ObjectPath) -> str | None:
        """Return the id of the object. Raises Conflict where several have its name."""
        if (known := self._places.get(path)) is not None:
            return known
        inside = await self._inside(path)
        if inside is None and path.kind in {Kind.ENVIRONMENT, Kind.APPLICATION}:
            return None
        ids = await declared.select_ids(self.connection, path.kind, path.name, inside)
        found = self._only(await self.visible(path.kind, ids), f"{path.kind}s", path.name)
        if found is not None and path.kind in _PLACES:
            self._places[path] = found
        return found

    async def container_of(self, path: ObjectPath) -> str | None:
        """Return the id of the project or environment that an object is in, None where it does not exist."""
        return await self._inside(path)

    async def _inside(self, path: ObjectPath) -> str | None:
        if path.kind is Kind.ENVIRONMENT:
            return await self.find(ObjectPath(Kind.PROJECT, path.project or ""))
        if path.kind is not Kind.APPLICATION:
            return None
        if path.project is None:
            return DEFAULT
        return await self.find(ObjectPath(Kind.ENVIRONMENT, path.environment or PRODUCTION, path.project))

    async def visible(self, kind: Kind, ids: list[str]) -> list[str]:
        """Return those of these objects that the caller's key is for."""
        if (grants := self._caller.grants) is None or not ids:
            return ids
        projects = await resource_owners.select_projects(self.connection, grants) if kind in _PLACES else frozenset()
        covered = await self.covered() if kind in {Kind.APPLICATION, Kind.GROUP} else frozenset()
        return [one for one in ids if await self._is_visible(kind, one, grants, projects=projects, covered=covered)]

    async def _is_visible(
        self, kind: Kind, object_id: str, grants: Grants, *, projects: Collection[str], covered: frozenset[str]
    ) -> bool:
        if kind is Kind.APPLICATION:
            return object_id in covered
        if kind is Kind.PROJECT:
            return object_id in projects
        if kind is Kind.ENVIRONMENT:
            return (await declared.select_place(self.connection, kind, object_id)).inside in projects
        if kind is Kind.ALERT:
            owner = await resource_owners.select_owner(self.connection, ResourceKind.ALERT, object_id)
            return owner is not None and grants.covers(application_id=owner.application_id, project_id=owner.project_id)
        if kind is Kind.GROUP:
            inside = await groups.select_member_ids(self.connection, object_id)
            return bool(inside) and covered.issuperset(inside)
        return True  # what is closed to restricted keys says so when it is read

    async def covered(self) -> frozenset[str]:
        """Return the applications that a restricted key is for."""
        grants = self._caller.grants
        return await resource_owners.select_covered(self.connection, grants) if grants else frozenset()

    async def application(self, reference: str, field: str) -> str:
        """Return the id of the application with this name. Raises InvalidInput."""
        found = await self._referred(reference, field)
        if found is None:
            raise InvalidInput(f"there is no application {reference!r}", field=field)
        return found

    async def full_name(self, reference: str, field: str) -> str:
        """Return the application's full name; it may be one that the declaration is about to make."""
        found = await self._referred(reference, field)
        if found is not None:
            return (await declared.select_full_names(self.connection, [found])).get(found, found)
        known = list(self._expected.get(reference, ()))
        if len(known) != 1:
            several = f"several applications are called {reference!r}: name one as PROJECT/ENVIRONMENT/NAME"
            raise InvalidInput(several if known else f"there is no application {reference!r}", field=field)
        return known[0]

    async def _referred(self, reference: str, field: str) -> str | None:
        found = await self.visible(Kind.APPLICATION, await declared.select_referred(self.connection, reference))
        if len(found) > 1:
            raise InvalidInput(
                f"several applications are called {reference!r}: name one as PROJECT/ENVIRONMENT/NAME", field=field
            )
        return found[0] if found else None

    async def named(self, kind: Kind, name: str, field: str) -> str:
        """Return the id of the server or project with this name. Raises InvalidInput."""
        found = await self.find(ObjectPath(kind, name))
        if found is None:
            raise InvalidInput(f"there is no {kind} {name!r}", field=field)
        return found

    @staticmethod
    def _only(ids: list[str], what: str, name: str) -> str | None:
        if len(ids) > 1:
            raise Conflict(f"{len(ids)} {what} are called {name!r} here: rename or remove all but one")
        return ids[0] if ids else None


async def path_of(connection: Connection, kind: Kind, object_id: str) -> ObjectPath:
    """Return the path of an object that is there. Raises NotFound."""
    place = await declared.select_place(connection, kind, object_id)
    if kind is Kind.APPLICATION and place.inside == DEFAULT:
        return ObjectPath(kind, place.name)
    return ObjectPath(kind, place.name, place.project, place.environment)
