"""The part of a rule that says who is trusted to sign."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from gateway.gates._cosign import Trust
from gateway.gates._duration import Duration
from gateway.gates._encodings import PEM
from gateway.gates._identities import Identity
from gateway.gates._keyless import MISSING_PACKAGE, Keyless, is_installed
from gateway.gates.gate import GateRule

if TYPE_CHECKING:
    from gateway.gates._public_keys import PublicKey

_MAX_SIGNERS = 10
_ROOT = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
_MAX_ROOT = 256 * 1024  # characters
_LONGEST = timedelta(days=1)


def _check_key(text: str) -> str:
    from gateway.gates._public_keys import PublicKey

    _ = PublicKey.parse(text)
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read from {path}: {error}") from error


Key = Annotated[str, AfterValidator(_check_key)]


class Signers(GateRule):
    """Who is trusted, and how long to wait for a late signature."""

    keys: tuple[Key, ...] = Field(default=(), max_length=_MAX_SIGNERS)
    """Public keys in PEM."""
    identities: tuple[Identity, ...] = Field(default=(), max_length=_MAX_SIGNERS)
    """Signers without a key."""
    trusted_root: dict[str, Any] | None = None
    """What identities are verified with. Unset: the content of the file that GATEWAY_TRUSTED_ROOT names."""
    late: Annotated[Duration, Field(alias="wait")] = timedelta(seconds=60)
    """How long to wait for what is not there yet. What the registry does not answer is waited for longer."""
    platform_manifest: bool = False
    """Whether what is signed about the manifest for the engine's platform counts too, where the image is an index."""

    @field_validator("keys", mode="before")
    @classmethod
    def _split_keys(cls, given: object) -> object:
        """A text is one key after the other, as `cat` prints them."""
        if not isinstance(given, str):
            return given
        found = PEM.findall(given)
        return found if found and not PEM.sub("", given).strip() else [given]

    @field_validator("identities", mode="before")
    @classmethod
    def _list_identities(cls, given: object) -> object:
        return [given] if isinstance(given, dict) else given

    @field_validator("late")
    @classmethod
    def _check_late(cls, given: timedelta) -> timedelta:
        if given > _LONGEST:
            raise ValueError("wait at most 24h for a signature")
        return given

    @model_validator(mode="after")
    def _check_signers(self) -> Self:
        if not self.keys and not self.identities:
            raise ValueError("give keys or identities: without any, nobody is trusted")
        known = [key.fingerprint for key in self.public_keys]
        if len(set(known)) != len(known):
            raise ValueError("a key is there twice")
        if self.trusted_root is not None and not self.identities:
            raise ValueError("trustedRoot is for identities, and there are none")
        if self.identities and not is_installed():
            raise ValueError(MISSING_PACKAGE)
        if self.trusted_root is not None and self.trusted_root.get("mediaType") != _ROOT:
            raise ValueError(f"trustedRoot is not one of Sigstore, whose mediaType is {_ROOT}")
        return self

    @property
    def public_keys(self) -> "Sequence[PublicKey]":
        from gateway.gates._public_keys import PublicKey

        return [PublicKey.parse(text) for text in self.keys]

    def trust(self, installed_root: Path | None) -> Trust:
        """Return who is trusted; with no trusted root of its own, identities are verified with the installed one.

        Raises ValueError for a root that is none, or missing.
        """
        if not self.identities:
            return Trust(self.public_keys)
        if self.trusted_root is not None:
            root = json.dumps(self.trusted_root)
        elif installed_root is not None:
            root = _read(installed_root)
        else:
            raise ValueError("is missing: give trustedRoot, or name its file in GATEWAY_TRUSTED_ROOT")
        if len(root) > _MAX_ROOT:
            raise ValueError(f"has {len(root)} characters: at most {_MAX_ROOT}")
        return Trust(self.public_keys, Keyless(root, self.identities))
