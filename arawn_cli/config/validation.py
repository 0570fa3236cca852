"""What is wrong with a configuration file, one line a fault.

Each line has the dotted path, the value found, what is allowed, and for a key
that is not known the nearest one that is.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from arawn_cli.config.relay_url import redact_value
from arawn_cli.config.schema import ConfigFile, WorkstreamStore
from arawn_cli.names import escape

# A table or key of Arawn's that resembles one of ours this closely is taken for a typo of it.
_LIKENESS = 0.8


_BEGINNINGS = ("path", "paht", "maint", "cleanup")


_OURS_ALONE = frozenset(
    {"scratch_cleanup_days", "trash_days", "protect", "total_warning_gb", "workstream_warning_gb", "session_warning_mb"}
)


_HINTS = {
    "paths.cleanup.scratch_cleanup_days": "to stop cleanup, disable its timer or crontab line instead",
    "maintenance.relay.token": "a secret never stands in this file: name a file that holds it with maintenance.relay.token_file",
}


_SIZE = 'a size such as "5GiB", or a number of bytes'


# What TOML calls otherwise than Python does, with an example that every key of the kind takes.
_WORDS = {
    "tuple_type": "a list in square brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "int_type": "a whole number such as 7, without quotes or a point",
    "float_type": "a number such as 2.5, without quotes",
    "finite_number": "a number such as 2.5",
    "bool_type": "true or false, without quotes",
    "string_type": "text in quotes",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
    "byte_size": _SIZE,
    "byte_size_unit": _SIZE,
    "greater_than": "a number above {gt:.15g}",
    "greater_than_equal": "{ge:.15g} or more",
    "less_than_equal": "{le:.15g} or less",
}


def problems_of(error: ValidationError) -> list[str]:
    """One line for each fault that validation found, in the order of the file's tables."""
    return [_line(detail) for detail in error.errors(include_url=False)]


def near_misses(document: Mapping[str, object]) -> list[str]:
    """Tables at the top, and keys of `[workstream]`, that Arawn may own but that look like a typo of one we read."""
    lines = [_near_miss(key, ConfigFile, "") for key in document]
    workstream = document.get("workstream")
    if isinstance(workstream, dict):
        lines += [_near_miss(key, WorkstreamStore, "workstream.") for key in workstream]
    return [line for line in lines if line] + list(_strays(document, ""))


def _strays(table: Mapping[str, object], prefix: str) -> Iterator[str]:
    """Keys that only our tables have, found in a place where nothing reads them."""
    for key, value in table.items():
        path = f"{prefix}{key}"
        if path.partition(".")[0] in ("paths", "maintenance"):
            continue  # validation tells of these
        if key in _OURS_ALONE:
            yield f"{escape(path)}: not read here; the nearest known key is {_nearest(path)}"
        if isinstance(value, dict):
            yield from _strays(value, f"{path}.")


def _near_miss(key: str, table: type[BaseModel], prefix: str) -> str | None:
    if key in table.model_fields:
        return None
    near = difflib.get_close_matches(key.lower(), table.model_fields, n=1, cutoff=_LIKENESS)
    if not near and not prefix and key.lower().startswith(_BEGINNINGS):
        near = difflib.get_close_matches(key.lower(), table.model_fields, n=1, cutoff=0.0)
    return f"{escape(prefix + key)}: unknown, and too like {prefix}{near[0]} to pass over" if near else None


def _line(detail: ErrorDetails) -> str:
    path = escape("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip("."))
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key; {_HINTS.get(path) or f'the nearest known key is {_nearest(path)}'}"
    words = _WORDS.get(detail["type"])
    message = detail["msg"].removeprefix("Value error, ")
    allowed = words.format(**detail.get("ctx", {})) if words else message[0].lower() + message[1:]
    hint = _HINTS.get(path)
    return f"{path}: found {shown(detail['input'])}; allowed: {allowed}" + (f"; {hint}" if hint else "")


def shown(value: object) -> str:
    """A value of the file in short, without the secrets that an address may hold."""
    text = redact_value(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _nearest(path: str) -> str:
    """The known key most like an unknown one: the same word in another table first, then the likeliest spelling."""
    known = list(_known_keys(ConfigFile, ""))
    path = path.lower()
    word = path.rpartition(".")[2]
    same = [key for key in known if key.rpartition(".")[2] == word]
    return same[0] if same else difflib.get_close_matches(path, known, n=1, cutoff=0.0)[0]


def _known_keys(table: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in table.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        for inner in _tables_in(field.annotation):
            yield from _known_keys(inner, f"{path}.")


def _tables_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _tables_in(argument)
