"""Signers without a key: an identity, and the issuer that vouches for it, as the rules of gates name them."""

from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.gates.gate import GateRule

_MAX_PATTERN = 512


def _check_pattern(text: str) -> str:
    _ = compile_pattern(text)
    return text


#: a regular expression for the whole text, matched in linear time: https://github.com/google/re2/wiki/Syntax
Pattern = Annotated[str, Field(min_length=1, max_length=_MAX_PATTERN), AfterValidator(_check_pattern)]
Text = Annotated[str, Field(min_length=1, max_length=2048)]


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Any:
    """Compile a pattern. Raises ValueError."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(text, options)
    except re2.error as error:
        raise ValueError(f"is not a regular expression that RE2 knows: {error}") from error


def matches(text: str, exact: str | None, pattern: str | None) -> bool:
    """Tell whether the text is the exact one, and matches the pattern as a whole; None asks for nothing."""
    return exact in {None, text} and (pattern is None or compile_pattern(pattern).fullmatch(text) is not None)


class Identity(GateRule):
    """A signer without a key: who it is, and who vouches for that."""

    identity: Text | None = None
    """Exactly this identity: an address of mail, or the URI of a workflow."""
    identity_pattern: Pattern | None = None
    issuer: Text | None = None
    """Exactly this issuer: https://token.actions.githubusercontent.com."""
    issuer_pattern: Pattern | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.identity is None) == (self.identity_pattern is None):
            raise ValueError("give either identity or identityPattern")
        if (self.issuer is None) == (self.issuer_pattern is None):
            raise ValueError("give either issuer or issuerPattern: anybody can get an identity from some issuer")
        return self

    def matches(self, identity: str, issuer: str) -> bool:
        return matches(identity, self.identity, self.identity_pattern) and matches(
            issuer, self.issuer, self.issuer_pattern
        )
