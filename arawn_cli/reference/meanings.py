"""What each key of the configuration means, with its unit: for the file that `config init` writes, the schema and the docs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import get_args

from pydantic import BaseModel

from arawn_cli import config_tables


@cache
def meanings() -> dict[str, str]:
    """Dotted keys, in the order of the tables, with one line of plain text: the string below the field."""
    # Read from the source: Python forgets such strings, and pydantic would look for them at every start.
    module = ast.parse(inspect.getsource(config_tables))
    told = {table.name: dict(_strings_below_fields(table)) for table in module.body if isinstance(table, ast.ClassDef)}
    return dict(_of(config_tables.ConfigFile, told, ""))


def _strings_below_fields(table: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for above, below in pairwise(table.body):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(meaning))):
                yield field, meaning


def _of(table: type[BaseModel], told: dict[str, dict[str, str]], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in table.model_fields.items():
        if name in told[table.__name__]:
            yield f"{prefix}{name}", told[table.__name__][name]
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _of(kind, told, f"{prefix}{name}.")
