'''Models whose fields are described by the string after them. It performs no I/O but reading its own sources.

    class Probe(DescribedModel):
        interval: float = 1
        """Seconds between two requests."""

This is what `use_attribute_docstrings` of pydantic does; that looks for each class in every frame of the stack, which
took a fifth of the start of a gateway.
'''

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class DescribedModel(BaseModel):
    """The string after a field is its description. For classes at the top of a module."""

    model_config = ConfigDict(hide_input_in_errors=True)

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name, text in _descriptions(cls.__module__).get(cls.__qualname__, {}).items():
            default = cls.__dict__.get(name, ...)
            if isinstance(default, FieldInfo):
                raise TypeError(f"{cls.__qualname__}.{name} has a Field(): pass that the description")
            setattr(cls, name, Field(default, description=text))


@cache
def _descriptions(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return the descriptions of the fields of each class of the module; of none where its source is not there."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:
        return {}
    return {node.name: dict(_described(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _described(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, after in pairwise(node.body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                yield name, inspect.cleandoc(text)
            case _:
                continue
