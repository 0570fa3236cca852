"""What each key of the configuration and each field of an event means, with its unit: for `config init`, the schemas and the docs."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from typing import get_args

from pydantic import BaseModel

from arawn_cli.config import schema


@cache
def meanings() -> dict[str, str]:
    """Dotted keys, in the order of the tables, with one line of plain text: the string below the field."""
    return dict(_of(schema.ConfigFile, _told_in(schema.__name__), ""))


def field_meanings(kind: type) -> dict[str, str]:
    """The same of a dataclass, by the names of its fields; those that it has from another stand in that one."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if is_dataclass(each):
            found |= _told_in(each.__module__)[each.__name__]
    return found


@cache
def _told_in(module: str) -> dict[str, dict[str, str]]:
    """The strings below the fields of each class of a module that is imported."""
    # Read from the source: Python forgets such strings, and pydantic would look for them at every start.
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {each.name: dict(_strings_below_fields(each)) for each in body if isinstance(each, ast.ClassDef)}


def _strings_below_fields(table: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for above, below in pairwise(table.body):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(meaning))):
                yield field, " ".join(meaning.split())


def _of(table: type[BaseModel], told: dict[str, dict[str, str]], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in table.model_fields.items():
        if name in told[table.__name__]:
            yield f"{prefix}{name}", told[table.__name__][name]
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _of(kind, told, f"{prefix}{name}.")
