"""JSON Schemas (draft 2020-12) of the configuration file, the events and the plan, made from the types that read and write them."""

from __future__ import annotations

from functools import reduce
from itertools import chain
from operator import or_
from typing import cast

from pydantic import TypeAdapter

from arawn_cli import events
from arawn_cli.cleanup.plan_file import PlanFile
from arawn_cli.config.meanings import field_meanings, meanings
from arawn_cli.config.schema import ConfigFile
from arawn_cli.events import Event, FailureReport, Filesystem, ForeignEntry

Schema = dict[str, object]


_DIALECT = "https://json-schema.org/draft/2020-12/schema"


EVENTS = tuple(
    each
    for each in chain.from_iterable(vars(module).values() for module in (events,))
    if isinstance(each, type) and issubclass(each, Event) and each is not Event
)
"""Every type of event."""


PARTS = (Filesystem, FailureReport, ForeignEntry)
"""What events hold that has fields of its own."""


def config_schema() -> Schema:
    """Of the configuration file, as editors read it; tables and keys that are Arawn's own are let pass where they may stand."""
    schema = cast("Schema", ConfigFile.model_json_schema())
    definitions = cast("dict[str, Schema]", schema.pop("$defs"))
    whole = _resolved(schema, definitions, "")
    return {"$schema": _DIALECT, **whole, "title": "Arawn's configuration file, as arawn-cli reads it"}


def events_schema() -> Schema:
    """Of one event, that is of one line of output. Later versions may add keys, and words to the enumerations."""
    schema = cast("Schema", TypeAdapter(reduce(or_, EVENTS)).json_schema(mode="serialization"))
    definitions = cast("dict[str, Schema]", schema["$defs"])
    for kind in (*EVENTS, *PARTS):
        definition, told = definitions[kind.__name__], field_meanings(kind)
        properties = cast("dict[str, Schema]", definition["properties"])
        for name, each in properties.items():
            each.pop("title", None)
            each["description"] = told[name]
        if "type" in properties:
            properties["type"] = {"const": properties["type"]["default"], "description": told["type"]}
        definition["required"] = list(properties)
    return {"$schema": _DIALECT, "title": "An event of arawn-cli", **schema}


def plan_schema() -> Schema:
    """Of the file that `scratch-cleanup --plan-out` writes and `--apply` reads."""
    return {"$schema": _DIALECT, **cast("Schema", PlanFile.model_json_schema()), "title": "A plan of arawn-cli scratch-cleanup"}


def _resolved(schema: Schema, definitions: dict[str, Schema], key: str) -> Schema:
    """A schema with its definitions in their places, where each key has its meaning; TOML has no null."""
    if "$ref" in schema:
        schema = definitions[str(schema["$ref"]).rpartition("/")[2]]
        return _resolved({name: value for name, value in schema.items() if name != "default"}, definitions, key)
    found = {name: value for name, value in schema.items() if name not in ("title", "description")}
    if found.get("default", ...) is None:
        del found["default"]
        (only,) = (each for each in cast("list[Schema]", found.pop("anyOf")) if each.get("type") != "null")
        found |= only
    if key in meanings():
        found["description"] = meanings()[key]
    if "properties" in found:
        inner = cast("dict[str, Schema]", found["properties"])
        found["properties"] = {name: _resolved(each, definitions, f"{key}.{name}".lstrip(".")) for name, each in inner.items()}
    if "items" in found:
        found["items"] = _resolved(cast("Schema", found["items"]), definitions, key)
    return found


SCHEMAS = {"config": config_schema, "events": events_schema, "plan": plan_schema}
"""What can be asked for by name."""
