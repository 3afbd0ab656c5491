"""The gateways that `gateway login` has saved, with their keys: a file that only its user can read.

{"current": "prod", "contexts": {"prod": {"url": "https://gateway.example.com", "key": "gw_…"}}}
"""

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from gateway.client.address import Address
from gateway.model.errors import Conflict, InvalidInput, NotFound

_LONGEST = 1 << 20  # bytes of the file
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class SavedGateway:
    """A gateway and the key that it was given for."""

    name: str
    address: Address
    key: str


@dataclass(frozen=True, slots=True)
class SavedGateways:
    """All of them, by name. `current` is the one that a command uses which names none."""

    path: Path
    current: str | None
    gateways: Mapping[str, SavedGateway]

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read the file; without one, none is saved. Raises InvalidInput, or Conflict where others can read it."""
        path = _path(environ)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                text = file.read(_LONGEST)
        except FileNotFoundError:
            return cls(path, None, {})
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Conflict(f"others can read the keys in {path}: chmod 600 {path}, and create new keys")
        try:
            contexts, current = _parse(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidInput) as error:
            raise InvalidInput(f"{path} is damaged: remove it, and log in again: gateway login URL") from error
        return cls(path, current, contexts)

    def get(self, name: str) -> SavedGateway:
        """Raises NotFound."""
        if name not in self.gateways:
            known = ", ".join(sorted(self.gateways)) or "none"
            raise NotFound(f"There is no context {name!r}; there are: {known}. Add one: gateway login URL --name NAME")
        return self.gateways[name]

    def key_for(self, address: Address) -> str | None:
        """Return the key that was given for this address; the current context's if there are several."""
        found = {one.name: one.key for one in self.gateways.values() if one.address == address}
        return found.get(self.current or "", next(iter(found.values()), None))

    def using(self, name: str) -> Self:
        """Return them with another current one. Raises NotFound."""
        return replace(self, current=self.get(name).name)

    def with_gateway(self, added: SavedGateway) -> Self:
        """Return them with this one, as the current one. Raises InvalidInput for an unusable name."""
        if not added.name or len(added.name) > _LONGEST_NAME or not added.name.isprintable() or " " in added.name:
            raise InvalidInput(f"{added.name!r} is no name of a context: it has no spaces, and at most 100 characters")
        return replace(self, current=added.name, gateways={**self.gateways, added.name: added})

    def without(self, name: str) -> Self:
        """Raises NotFound."""
        self.get(name)
        rest = {one: gateway for one, gateway in self.gateways.items() if one != name}
        return replace(self, current=None if self.current == name else self.current, gateways=rest)

    def save(self) -> None:
        """Write the file, completely or not at all. Raises InvalidInput."""
        contexts = {name: {"url": str(one.address), "key": one.key} for name, one in self.gateways.items()}
        text = json.dumps({"current": self.current, "contexts": contexts}, indent=2)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(prefix=".contexts-", dir=self.path.parent)  # for its owner alone
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                Path(draft).replace(self.path)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise InvalidInput(f"cannot write {self.path}: {error.strerror}") from error


def _parse(read: Any) -> tuple[Mapping[str, SavedGateway], str | None]:
    """Return the contexts and the current one. Raises whatever a damaged file leads to."""
    contexts = {
        str(name): SavedGateway(str(name), Address.parse(one["url"]), str(one["key"]))
        for name, one in read["contexts"].items()
    }
    current = read.get("current")
    return contexts, current if current in contexts else None


def _path(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or Path.home()}/.config"
    return Path(base) / "pushdeploy" / "contexts.json"
