"""Find and describe the errors of a configuration file, one line for each.

A line has the dotted key, the value that was found and the allowed values. For an unknown key it
has the nearest known one.

A root never shares its path or database with another one: evidence of one root must not decide
about the sessions of another.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from arawn_cli.arawn.layout import DATABASE_V0, WORKSTREAMS
from arawn_cli.config.lookup import PathBase
from arawn_cli.config.relay_url import redact_path, redact_value
from arawn_cli.config.schema import Cleanup, CleanupDefaults, ConfigFile, Paths, Pressure, Storage, UsageLimits, WorkstreamStore, fields_of
from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape

# Arawn's tables may have keys of any name. One that is this similar to ours is taken for a
# misspelling. Arawn documents every key of the tables of _CLOSED, so less is needed there.
_SIMILARITY = 0.8
_SIMILARITY_CLOSED = 0.6
_CLOSED = ("paths.usage", "paths.cleanup")

_ARAWN_TABLES: dict[str, type[BaseModel]] = {
    "": ConfigFile,
    "paths": Paths,
    "paths.usage": UsageLimits,
    "paths.cleanup": CleanupDefaults,
    "workstream": WorkstreamStore,
    "storage": Storage,
}

# Keys that belong into one of these tables and are in another one below [paths].
_NEVER_ELSEWHERE: dict[str, type[BaseModel]] = {
    "paths.usage": UsageLimits,
    "paths.cleanup": CleanupDefaults,
    "maintenance.cleanup": Cleanup,
    "maintenance.pressure": Pressure,
}

_HINTS = {
    "paths.cleanup.scratch_cleanup_days": "to stop cleanup, disable its timer or crontab line instead",
    **{
        f"{table}.{key}": f"for any other size, such as 512MiB, set {ours} instead, which Arawn does not read"
        for key, name in (("total_warning_gb", "total"), ("workstream_warning_gb", "workstream"), ("session_warning_mb", "session"))
        for table, ours in (("paths.usage", f"[maintenance.pressure] {name}"), ("maintenance.roots", f"{name} of the same root"))
    },
    "maintenance.relay.token": "keep the token in a separate file, and name that with maintenance.relay.token_file",
}

# Addresses that are secret as a whole, and tables that hold them.
_HIDDEN = r"maintenance\.(ping|roots\[\d+\])(\.(scratch_cleanup|disk_check))?"

_MAIN_KEYS = (
    ("path", "maintenance.root"),
    ("path", "paths.base_path"),
    ("path", "workstream.data_dir"),
    ("database", "maintenance.database"),
    ("database", "workstream.database"),
)
"""The keys that can name the main root and its database, first match first."""

# By pydantic's types of errors: the allowed values, in the words of TOML instead of Python.
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
    "greater_than": "a number above {gt:.15g}",
    "greater_than_equal": "{ge:.15g} or more",
    "less_than_equal": "{le:.15g} or less",
}


def describe_errors(error: ValidationError, most: int) -> list[str]:
    """Return one line for each of pydantic's first errors, in the order of the file's tables."""
    return [_describe(detail) for detail in error.errors(include_url=False)[:most]]


def find_misspellings(document: Mapping[str, object]) -> list[str]:
    """Return one line for each unknown key of Arawn's tables that resembles a key that is read."""
    lines = []
    for prefix, table in _ARAWN_TABLES.items():
        found = value_at(document, prefix) if prefix else document
        for key in found if isinstance(found, dict) else ():
            if key not in table.model_fields and (near := _misspelt(prefix, key, table.model_fields)) is not None:
                lines.append(f"{escape(f'{prefix}.{key}'.lstrip('.'))}: unknown, and too similar to {near} to be ignored")
    return lines


def value_at(table: object, key: str) -> object:
    """Return the value that a table of a document has for a dotted key, or None without one."""
    for name in key.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table


def _misspelt(prefix: str, key: str, known: Iterable[str]) -> str | None:
    """Return the dotted key that an unknown key is taken for, or None if it is Arawn's."""
    if prefix.startswith("paths"):
        for other, fields in _NEVER_ELSEWHERE.items():
            if key in fields.model_fields:
                return f"{other}.{key}"
    near = nearest(key, known, _SIMILARITY_CLOSED if prefix in _CLOSED else _SIMILARITY)
    return None if near is None else f"{prefix}.{near}".lstrip(".")


def nearest(word: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return the known word that is most similar to `word`, or None."""
    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=similarity)), None)


def format_value(value: object) -> str:
    """Return a value in at most 60 characters, without the secrets of a URL."""
    text = redact_path(redact_value(repr(value)))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _describe(detail: ErrorDetails) -> str:
    key = escape("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).lstrip("."))
    hint = _HINTS.get(re.sub(r"\[\d+\]", "", key))
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; {hint or f'the nearest known key is {_nearest_key(key)}'}"
    template = _ALLOWED.get(detail["type"])
    message = detail["msg"].removeprefix("Value error, ")
    allowed = template.format(**detail.get("ctx", {})) if template else message[0].lower() + message[1:]
    found = "a value that is not shown" if re.fullmatch(_HIDDEN, key) else format_value(detail["input"])
    return f"{key}: found {found}; allowed: {allowed}" + (f"; {hint}" if hint else "")


def _nearest_key(key: str) -> str | None:
    """Return the known key of the same name in another table, else the most similar one."""
    known = [known for known, _ in fields_of(ConfigFile)]
    name = key.lower().rpartition(".")[2]
    return next((other for other in known if other.rpartition(".")[2] == name), None) or nearest(key, known, 0)


# ---- Several roots


class _Value(NamedTuple):
    """A value of the file, and the dotted key that has it."""

    key: str
    text: str


def find_conflicts(document: Mapping[str, object], base: PathBase) -> list[str]:
    """Return one line for each value that two roots share, and for each root inside another.

    The document is not validated yet, so that these errors are reported together with all others.
    """
    lines = []
    owners = list(_owners(document))
    for key in ("name", "path", "database"):
        taken: dict[str, str] = {}
        if key == "database":  # the databases that are used by default
            unnamed = (owner["path"] for owner in owners if "path" in owner and "database" not in owner)
            taken = {base.normal(os.path.join(path.text, DATABASE_V0)): path.key for path in unnamed}
        for value in (owner[key] for owner in owners if key in owner):
            other = taken.setdefault(value.text if key == "name" else base.normal(value.text), value.key)
            if other != value.key:
                lines.append(
                    f"{value.key}: found {format_value(value.text)}; allowed: a {key} that no other root has, but {other} has the same"
                )
    # The files that one root measures and removes would belong to the other.
    paths = [owner["path"] for owner in owners if "path" in owner]
    workstreams = {f"{base.normal(path.text).rstrip('/')}/{WORKSTREAMS}": path.key for path in paths}
    for path in paths:
        inner = Path(base.normal(path.text))
        lines += [
            f"{path.key}: found {format_value(path.text)}; allowed: a path that is not below the workstreams of {workstreams[str(above)]}"
            for above in (inner, *inner.parents)
            if str(above) in workstreams
        ]
    return lines


def _owners(document: Mapping[str, object]) -> Iterator[dict[str, _Value]]:
    """Yield path and database of the main root, and then name, path and database of each other."""
    yield _texts(document, _MAIN_KEYS)
    entries = value_at(document, "maintenance.roots")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        yield _texts(entry, [(key, key) for key in ("name", "path", "database")], f"maintenance.roots[{index}].")


def _texts(table: object, keys: Iterable[tuple[str, str]], prefix: str = "") -> dict[str, _Value]:
    """Return the texts with these keys by their names, of several with one name the first."""
    found: dict[str, _Value] = {}
    for name, key in keys:
        text = value_at(table, key)
        if text and isinstance(text, str) and "\0" not in text:  # no path has it, which validation says
            found.setdefault(name, _Value(f"{prefix}{key}", text))
    return found


def refuse_other_root(root: Path, name: str | None, tables: ConfigFile, base: PathBase) -> None:
    """Check that the root of a run has no other rules, without reading the disks of other roots.

    Raises:
        ConfigurationError: it is, through a link, an option or the environment.
    """
    if not tables.maintenance.roots:
        return
    found = (os.path.normpath(root), os.path.realpath(root))
    for entry in tables.maintenance.roots:
        if entry.name != name and base.normal(entry.path) in found:
            raise ConfigurationError(f"{root} is the root {entry.name}, which has its own rules: use --root {entry.name}")
    main = tables.maintenance.root or tables.paths.base_path or tables.workstream.data_dir
    if name is not None and main is not None and base.normal(main) in found:
        raise ConfigurationError(f"the root {name} is also the main root, {main}, with other rules: remove one of them from the file")
