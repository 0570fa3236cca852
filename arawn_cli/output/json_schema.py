"""Make JSON Schemas (draft 2020-12) of the configuration file, the events and the plan."""

from __future__ import annotations

from functools import reduce
from operator import or_

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from arawn_cli import events
from arawn_cli.cleanup.plan_file import PlanFile
from arawn_cli.config.schema import ConfigFile
from arawn_cli.events import Event, FailureReport, Filesystem, ForeignEntry

Schema = dict[str, object]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

EVENTS = tuple(each for each in vars(events).values() if isinstance(each, type) and issubclass(each, Event) and each is not Event)
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
