"""Write a configuration file with every key, its description and its default, all commented out.

A key that stays commented out follows the defaults of later versions.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from arawn_cli.config.schema import ConfigFile, tables_in

_HEAD = """\
## Arawn's configuration: [paths] and [workstream] are Arawn's own, [maintenance] is arawn-cli's.
## Each line with a single # shows the default, or an example for a key that has none.
## Arawn reads the whole file: it accepts any of these lines without its #.
"""

_NOT_SHOWN = ("storage",)
"""Tables of another file, `arawn.toml`, which has no default that could be shown."""


def template() -> str:
    """Return the text of the file. It is also valid with any of its keys uncommented."""
    return "\n".join([_HEAD, *_table(ConfigFile, "")])


def example(field: FieldInfo) -> object:
    """Return the value to show for a key: its example if it has one, else its default."""
    return field.examples[0] if field.examples else field.default


def toml_value(value: object) -> str:
    """Return a value in TOML on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{name} = {toml_value(each)}" for name, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    text = tomli_w.dumps({"": list(value) if isinstance(value, tuple) else value}).partition(" = ")[2]
    return " ".join(text.split()).replace("[ ", "[").replace(", ]", "]")


def _table(table: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the lines of a table, simple keys first: after an inner table they would be in that."""
    fields = table.model_fields.items()
    for name, field in fields:
        if not isinstance(example(field), (BaseModel, dict)) and not any(tables_in(field.annotation)):
            yield from _comment(field)
            yield f"# {name} = {toml_value(example(field))}\n"
    for name, field in fields:
        key, shown = f"{prefix}{name}", example(field)
        inner = next(tables_in(field.annotation), None)
        if key in _NOT_SHOWN:
            continue
        if isinstance(shown, BaseModel):
            yield f"[{key}]"
            yield from _table(type(shown), f"{key}.")
        elif inner is not None:
            yield from _comment(field)
            yield f"# [[{key}]]"
            yield from (f"# {each} = {toml_value(example(own))}  # {own.description}" for each, own in inner.model_fields.items())
            yield ""
        elif isinstance(shown, dict):
            yield from _comment(field)
            yield f"# [{key}]"
            yield from (f"# {each} = {toml_value(value)}" for each, value in shown.items())
            yield ""


def _comment(field: FieldInfo) -> Iterator[str]:
    # Two signs, so that a description is still a comment if somebody uncomments all lines.
    yield from (f"## {line}" for line in textwrap.wrap(field.description or "", width=100))
