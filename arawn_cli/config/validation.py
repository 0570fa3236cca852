"""Describe the errors of a configuration file, one line for each.

A line has the dotted key, the value that was found and what is allowed. For an unknown key it has
the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from arawn_cli.config.relay_url import redact_value
from arawn_cli.config.schema import ConfigFile, WorkstreamStore, fields_of
from arawn_cli.names import escape

# Arawn may have a table or key of any name. One that is this similar to ours is taken for a
# misspelling.
_SIMILARITY = 0.8

_HINTS = {
    "paths.cleanup.scratch_cleanup_days": "to stop cleanup, disable its timer or crontab line instead",
    "maintenance.relay.token": "keep the token in a file of its own, and name that with maintenance.relay.token_file",
}

_SIZE = 'a size such as "5GiB", or a number of bytes'

# By pydantic's types of errors: what is allowed, in the words of TOML instead of Python.
_ALLOWED = {
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


def describe_errors(error: ValidationError) -> list[str]:
    """Return one line for each error that pydantic found, in the order of the file's tables."""
    return [_describe(detail) for detail in error.errors(include_url=False)]


def find_misspellings(document: Mapping[str, object]) -> list[str]:
    """Return one line for each top-level table or key of `[workstream]` that resembles ours."""
    lines = []
    workstream = document.get("workstream")
    for prefix, found, known in (
        ("", document, ConfigFile.model_fields),
        ("workstream.", workstream if isinstance(workstream, dict) else {}, WorkstreamStore.model_fields),
    ):
        for key in found:
            near = nearest(key, known, _SIMILARITY)
            if key not in known and near is not None:
                lines.append(f"{escape(prefix + key)}: unknown, and too similar to {prefix}{near} to be ignored")
    return lines


def nearest(word: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the known word that is most similar to `word`, or None."""
    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=similarity)), None)


def format_value(value: object) -> str:
    """Return a value in at most 60 characters, without the secrets of a URL."""
    text = redact_value(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _describe(detail: ErrorDetails) -> str:
    key = escape("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip("."))
    hint = _HINTS.get(key)
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {hint or f'the nearest known key is {_nearest_key(key)}'}"
    template = _ALLOWED.get(detail["type"])
    message = detail["msg"].removeprefix("Value error, ")
    allowed = template.format(**detail.get("ctx", {})) if template else message[0].lower() + message[1:]
    return f"{key}: found {format_value(detail['input'])}; allowed: {allowed}" + (f"; {hint}" if hint else "")


def _nearest_key(key: str) -> str | None:
    """Return the known key of the same name in another table, else the most similar one."""
    known = [known for known, _ in fields_of(ConfigFile)]
    name = key.lower().rpartition(".")[2]
    return next((other for other in known if other.rpartition(".")[2] == name), None) or nearest(key, known, 0)
