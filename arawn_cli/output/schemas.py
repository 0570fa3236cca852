"""Make documents of the schemas: JSON Schemas (draft 2020-12), and a commented configuration file.

The JSON Schemas are of the configuration file, the events and the plan.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from functools import reduce
from operator import or_

import tomli_w
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from arawn_cli import check_events, cleanup_events, command_events
from arawn_cli.check_events import ForeignEntry
from arawn_cli.cleanup.plan_file import PlanFile
from arawn_cli.config.schema import ConfigFile, tables_in
from arawn_cli.events import Event, FailureReport, Filesystem

Schema = dict[str, object]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

EVENTS = tuple(
    each
    for module in (check_events, cleanup_events, command_events)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, Event) and each is not Event
)
"""Every type of event, in the order of their definition."""

PARTS = (Filesystem, FailureReport, ForeignEntry)
"""The types of objects inside events."""


class _UntitledSchema(GenerateJsonSchema):
    """A schema without titles that repeat the names of keys."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


class _TomlSchema(_UntitledSchema):
    """A schema without null, which TOML does not have, and without defaults of whole tables."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None or isinstance(schema["default"], BaseModel):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def config_schema() -> Schema:
    """Return the schema of the configuration file, for editors.

    It allows Arawn's own tables and keys.
    """
    schema = ConfigFile.model_json_schema(schema_generator=_TomlSchema)
    return {"$schema": _DIALECT, **schema, "title": "Arawn's configuration file, as arawn-cli reads it"}


def events_schema() -> Schema:
    """Return the schema of one event, which is one line of output.

    Later versions may add keys, and values to the enumerations.
    """
    schema = TypeAdapter(reduce(or_, EVENTS)).json_schema(mode="serialization", schema_generator=_UntitledSchema)
    for event in EVENTS:
        definition = schema["$defs"][event.__name__]
        definition["required"] = list(definition["properties"])
        kind = definition["properties"]["type"]
        kind["const"] = kind.pop("default")
    return {"$schema": _DIALECT, "title": "An event of arawn-cli", **schema}


def plan_schema() -> Schema:
    """Return the schema of a plan, which `--plan-out` writes and `--apply` reads."""
    return {"$schema": _DIALECT, **PlanFile.model_json_schema(), "title": "A plan of arawn-cli scratch-cleanup"}


SCHEMAS = {"config": config_schema, "events": events_schema, "plan": plan_schema}
"""The schemas by the names that `config schema` takes."""


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
    yield from (f"## {line}" for line in textwrap.wrap(field.description or "", width=100, break_on_hyphens=False))
