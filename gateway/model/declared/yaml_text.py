"""YAML as people write declarations: https://yaml.org/spec/1.2.2, its core schema. It performs no I/O.

PyYAML reads YAML 1.1, where `on` is true, `0755` is 493 and `22:30` is 1350. Here a plain word is text unless it is
null, true, false or a decimal number. Tags, duplicate keys and keys that are no text are refused. The size, the depth,
and what aliases expand to are bounded, so the time is linear in the length of the text.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from gateway.model.errors import InvalidInput

MAX_LENGTH = 1024**2  # characters
MAX_DEPTH = 50
#: values in a document, with those that aliases repeat
MAX_VALUES = 50_000

Path: TypeAlias = tuple[str | int, ...]

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_OTHER_NUMBER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 400  # digits
_LARGEST = 2**63 - 1

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value stands, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True, slots=True)
class Document:
    """The value of a text, and where each part of it stands."""

    value: Any
    marks: Mapping[Path, Mark]

    def mark(self, path: Path) -> Mark:
        """Return where this part stands, or else the part around it."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, Mark(1, 1))


class InvalidYaml(InvalidInput):
    """The text is not YAML, or more of it than is read here. `mark` says where."""

    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(f"{mark}: {message}")
        self.mark = mark


@dataclass(slots=True)
class _Node:
    """A part of the text. `size` counts the values in it, `height` how deep they are nested."""

    mark: Mark
    kind: str
    text: str = ""
    plain: bool = False
    items: list["_Node"] = field(default_factory=list)
    pairs: list[tuple["_Node", "_Node"]] = field(default_factory=list)
    size: int = 1
    height: int = 0


def parse(text: str) -> Document:
    """Return the value of one document; that of an empty text is None. Raises InvalidYaml."""
    if len(text) > MAX_LENGTH:
        raise InvalidYaml(Mark(1, 1), f"a file has at most {MAX_LENGTH} characters")
    try:
        text.encode()
        node = _Composer(yaml.parse(text, Loader=_Loader)).document()
    except UnicodeEncodeError as error:
        raise InvalidYaml(_position(text, error.start), "half of a surrogate pair is no character") from error
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise InvalidYaml(_mark(at) if at else Mark(1, 1), error.problem or error.context or "not YAML") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise InvalidYaml(Mark(1, 1), " ".join(str(error).split())) from error
    marks: dict[Path, Mark] = {}
    return Document(None if node is None else _construct(node, (), marks), marks)


def _position(text: str, at: int) -> Mark:
    return Mark(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def _mark(at: Any) -> Mark:
    return Mark(at.line + 1, at.column + 1)


class _Composer:
    """Makes nodes of events."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, _Node | None] = {}  # None: not at its end yet

    def document(self) -> _Node | None:
        found = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found is not None:
                    raise InvalidYaml(_mark(event.start_mark), "one document is needed: put another one into a file")
                found = self._node(next(self._events), 0)
        return found

    def _node(self, event: Any, depth: int) -> _Node:
        mark = _mark(event.start_mark)
        self._limit(depth, mark)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, mark, depth)
        if event.tag is not None and event.tag not in {"!", "tag:yaml.org,2002:str"}:
            raise InvalidYaml(mark, f"the tag {event.tag} means nothing here: leave it out")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            plain = event.tag is None and bool(event.implicit[0])
            node = _Node(mark, "scalar", event.value, plain)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, depth)
        else:
            node = self._mapping(mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    @staticmethod
    def _limit(depth: int, mark: Mark) -> None:
        if depth > MAX_DEPTH:
            raise InvalidYaml(mark, f"values are nested at most {MAX_DEPTH} deep")

    def _alias(self, anchor: str, mark: Mark, depth: int) -> _Node:
        if anchor not in self._anchors:
            raise InvalidYaml(mark, f"there is no anchor &{anchor} before this alias")
        if (node := self._anchors[anchor]) is None:
            raise InvalidYaml(mark, f"*{anchor} stands inside of what it names")
        self._limit(depth + node.height, mark)
        return node

    def _sequence(self, mark: Mark, depth: int) -> _Node:
        node = _Node(mark, "sequence")
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            node.items.append(self._node(event, depth + 1))
            self._grow(node, node.items[-1])
        return node

    def _mapping(self, mark: Mark, depth: int) -> _Node:
        node = _Node(mark, "mapping")
        seen: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if key.kind != "scalar":
                raise InvalidYaml(key.mark, "a key is a text")
            if key.text in seen:
                raise InvalidYaml(key.mark, f"the key {key.text!r} stands at {seen[key.text]} already")
            seen[key.text] = key.mark
            node.pairs.append((key, self._node(next(self._events), depth + 1)))
            self._grow(node, node.pairs[-1][1])
        return node

    def _grow(self, node: _Node, part: _Node) -> None:
        node.size += part.size
        node.height = max(node.height, part.height + 1)
        if node.size > MAX_VALUES:
            raise InvalidYaml(part.mark, f"a file has at most {MAX_VALUES} values, with those that aliases repeat")


def _construct(node: _Node, path: Path, marks: dict[Path, Mark]) -> Any:
    marks.setdefault(path, node.mark)
    if node.kind == "scalar":
        return _scalar(node)
    if node.kind == "sequence":
        return [_construct(item, (*path, number), marks) for number, item in enumerate(node.items)]
    made: dict[str, Any] = {}
    merged: list[_Node] = []
    for key, value in node.pairs:
        if key.plain and key.text == "<<":
            merged = value.items if value.kind == "sequence" else [value]
            continue
        marks[*path, key.text] = key.mark
        made[key.text] = _construct(value, (*path, key.text), marks)
    for other in merged:
        if other.kind != "mapping":
            raise InvalidYaml(other.mark, "<< takes a mapping, or a list of mappings")
        for name, value in _construct(other, path, {}).items():
            marks.setdefault((*path, name), other.mark)
            made.setdefault(name, value)
    return made


def _scalar(node: _Node) -> Any:
    text = node.text
    if not node.plain:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOLEAN.fullmatch(text):
        return text[0] in "tT"
    if _OTHER_NUMBER.fullmatch(text):
        raise InvalidYaml(node.mark, f'{text} is a number that is not written like this here: quote it, "{text}"')
    if not _FLOAT.fullmatch(text):
        return text
    digits = text.lstrip("+-")
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        raise InvalidYaml(node.mark, f'{text[:80]} begins with 0: if it is a text, quote it, "{text[:80]}"')
    if len(digits) > _LONGEST_NUMBER:
        raise InvalidYaml(node.mark, "this number is too long: if it is a text, quote it")
    number = int(text) if _INTEGER.fullmatch(text) else float(text)
    if not abs(number) <= _LARGEST:  # nor is infinity
        raise InvalidYaml(node.mark, "this number is too large: if it is a text, quote it")
    return number


# What is written as an escape, and what a block cannot begin with or contain.
_UNPRINTED = re.compile(
    r"[^\n\t\x20-\x7e\xa1-\u200a\u2010-\u2027\u202f-\u205f\u2070-\ud7ff\uf900-\ufefe\U00010000-\U0010ffff]"
)
_NO_BLOCK = re.compile(r"[ \t]\n|[ \t]\Z|\A[\s#]|\t")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # ships no types
    """Writes what `parse` reads as the same value, and other readers of YAML too: it quotes what either may mistake."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = '"' if _UNPRINTED.search(text) else "|" if "\n" in text and not _NO_BLOCK.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _pattern, _tag in ((_OTHER_NUMBER, "int"), (_FLOAT, "float")):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})\\Z"), list("-+.0123456789")
    )


def dump(value: Any) -> str:
    """Return the value as YAML, in the order that it has. `parse` reads the same value from it."""
    return str(yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=math.inf))
