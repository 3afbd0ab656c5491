r"""Which pushed tags a subscription matches. It performs no I/O.

    exact    stable             this tag, each time it is pushed
    semver   ^1.2  ~1.2  >=1 <3  versions of three numbers, `v1.2.3` too, in a range as npm has them
    glob     main-*             * ? [abc], over the whole tag, case-sensitive
    regex    \d{8}-[0-9a-f]+    over the whole tag, in linear time (RE2)
    any                         every tag

`include` then keeps only tags that match one of its globs, and `exclude` drops tags that match one of its globs.

>>> TagPolicy.parse("semver", "^1.2").matches(Tag("v1.3.0"))
True
>>> TagPolicy.parse("semver", "^1.2").matches(Tag("1.3.0-rc.1"))
False
>>> is_lower(Tag("1.9.0"), Tag("1.10.0"))
True
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, Self, TypeGuard

from gateway.model.errors import InvalidInput
from gateway.model.reference import Tag, parse_tag

if TYPE_CHECKING:
    from semantic_version import NpmSpec, Version

_MAX_PATTERN_LENGTH = 256
_MAX_GLOBS = 32
# As in npm, a version in a range may begin with v, and blanks may separate it from its operator.
_NPM_NOTATION = re.compile(r"(?<=[\^~<>=]) +|(?<![0-9A-Za-z.+-])v(?=[0-9])")


class Rule(StrEnum):
    """How a tag policy selects tags."""

    EXACT = "exact"
    SEMVER = "semver"
    GLOB = "glob"
    REGEX = "regex"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class TagPolicy:
    """A rule, its pattern, and the options that restrict it."""

    rule: Rule
    pattern: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: semver: match prereleases such as 1.3.0-rc.1 even if the range names none
    prereleases: bool = False
    #: semver: deploy a lower version after a higher one
    downgrades: bool = False

    @classmethod
    def parse(
        cls,
        rule: str,
        pattern: str = "",
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        prereleases: bool = False,
        downgrades: bool = False,
    ) -> Self:
        """Parse a policy as a user writes it. Raises InvalidInput."""
        if rule not in set(Rule):
            raise InvalidInput(f"{rule!r} is not a policy: {', '.join(Rule)}", field="policy")
        policy = cls(Rule(rule), pattern, tuple(include), tuple(exclude), prereleases, downgrades)
        policy._check()
        return policy

    def _check(self) -> None:
        if self.rule is Rule.ANY and self.pattern:
            raise InvalidInput("the policy any takes no pattern; did you mean glob or regex?", field="pattern")
        if self.rule is not Rule.ANY and not self.pattern:
            raise InvalidInput(f"the policy {self.rule} needs a pattern", field="pattern")
        for field, globs in (("include", self.include), ("exclude", self.exclude)):
            if len(globs) > _MAX_GLOBS or any(len(glob) > _MAX_PATTERN_LENGTH for glob in globs):
                raise InvalidInput(f"at most {_MAX_GLOBS} patterns of {_MAX_PATTERN_LENGTH} characters", field=field)
        if len(self.pattern) > _MAX_PATTERN_LENGTH:
            raise InvalidInput(f"a pattern has at most {_MAX_PATTERN_LENGTH} characters", field="pattern")
        if self.rule is Rule.EXACT:
            _parse_pattern_tag(self.pattern)
        elif self.rule is Rule.SEMVER:
            _parse_range(self.pattern)
        elif self.rule is Rule.REGEX:
            _compile_regex(self.pattern)

    @property
    def upgrades_only(self) -> bool:
        """Whether only the same or a higher version may be deployed."""
        return self.rule is Rule.SEMVER and not self.downgrades

    def matches(self, tag: Tag) -> bool:
        """Tell whether the policy matches a tag, regardless of what runs."""
        return self._matches_rule(tag) and not any(fnmatchcase(tag, glob) for glob in self.exclude)

    def _matches_rule(self, tag: Tag) -> bool:
        if self.include and not any(fnmatchcase(tag, glob) for glob in self.include):
            return False
        match self.rule:
            case Rule.EXACT:
                return tag == self.pattern
            case Rule.SEMVER:
                return self._in_range(tag)
            case Rule.GLOB:
                return fnmatchcase(tag, self.pattern)
            case Rule.REGEX:
                return _compile_regex(self.pattern).fullmatch(tag) is not None
            case Rule.ANY:
                return True

    def _in_range(self, tag: Tag) -> bool:
        version, wanted = _parse_version(tag), _parse_range(self.pattern)
        if version is None:
            return False
        released = self.prereleases and version.prerelease and wanted.match(version.truncate("patch"))
        return bool(released or wanted.match(version))

    def __str__(self) -> str:
        return f"{self.rule} {self.pattern}".rstrip()


def is_version(tag: Tag | None) -> TypeGuard[Tag]:
    """Tell whether it is a version of three numbers."""
    return tag is not None and _parse_version(tag) is not None


def is_lower(tag: Tag | None, than: Tag | None) -> bool:
    """Tell whether both are versions and the first is the lower one."""
    one, other = _parse_version(tag or ""), _parse_version(than or "")
    return one is not None and other is not None and one < other


def highest_match(tags: Sequence[Tag], policy: TagPolicy) -> Tag | None:
    """Return the highest version that the policy matches, or None."""
    taken = [(version, tag) for tag in tags if policy.matches(tag) and (version := _parse_version(tag)) is not None]
    return max(taken, key=lambda pair: pair[0])[1] if taken else None


class _Pattern(Protocol):
    def fullmatch(self, text: str) -> object | None: ...


def _parse_pattern_tag(pattern: str) -> Tag:
    try:
        return parse_tag(pattern)
    except InvalidInput as error:
        raise InvalidInput(str(error), field="pattern") from error


@lru_cache(maxsize=4096)
def _parse_version(tag: str) -> "Version | None":
    """Parse three numbers with an optional `v` and prerelease. `1.2` is a moving tag, not a version."""
    from semantic_version import Version

    try:
        return Version(tag.removeprefix("v"))
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _parse_range(pattern: str) -> "NpmSpec":
    from semantic_version import NpmSpec

    try:
        return NpmSpec(_NPM_NOTATION.sub("", " ".join(pattern.replace(",", " ").split())))
    # AttributeError: of a range with a hyphen whose upper end is no version.
    except (ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{pattern!r} is not a version range, for example ^1.2, ~1.2 or >=1 <3", field="pattern"
        ) from error


@lru_cache(maxsize=1024)
def _compile_regex(pattern: str) -> _Pattern:
    import re2

    options = re2.Options()
    options.log_errors, options.max_mem = False, 1 << 20
    try:
        compiled: _Pattern = re2.compile(pattern, options)
    except re2.error as error:
        (why,) = error.args
        text = why.decode(errors="replace") if isinstance(why, bytes) else why
        raise InvalidInput(f"{pattern!r} is not a valid RE2 regular expression: {text}", field="pattern") from error
    return compiled
