"""Apply `[[maintenance.roots]]`: several roots in one file, each with its own values for some keys.

A root never shares its path or database with another one: evidence of one root must not decide
about the sessions of another.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.arawn.layout import DATABASE_V0, WORKSTREAMS
from arawn_cli.config.lookup import DEFAULT, PathBase
from arawn_cli.config.schema import ConfigFile, Ping, Storage, WorkstreamStore
from arawn_cli.config.validation import format_value, nearest, value_at
from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape

_USAGE = {"total_warning_gb": "total", "workstream_warning_gb": "workstream", "session_warning_mb": "session"}
"""The limits of `[paths.usage]`, and the keys of `[maintenance.pressure]` that replace them."""

_GENERAL_KEYS = {
    "path": "maintenance.root",
    "database": "maintenance.database",
    "scratch_cleanup_days": "paths.cleanup.scratch_cleanup_days",
    **{key: f"paths.usage.{key}" for key in _USAGE},
    **{key: f"maintenance.pressure.{key}" for key in (*_USAGE.values(), "own_files", "limits")},
    **{key: f"maintenance.cleanup.{key}" for key in ("keep_last", "max_total", "min_free_percent", "min_age_days", "protect")},
    **{key: f"maintenance.ping.{key}" for key in Ping.model_fields},
}
"""The keys of a named root, and the general keys for which they give the value."""


_MAIN_KEYS = (
    ("path", "maintenance.root"),
    ("path", "paths.base_path"),
    ("path", "workstream.data_dir"),
    ("database", "maintenance.database"),
    ("database", "workstream.database"),
)
"""The keys that can name the main root and its database, first match first."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of the file, and the dotted key that has it."""

    key: str
    text: str


def values_of_root(tables: ConfigFile, name: str, file: Path | None) -> dict[str, tuple[object, str]]:
    """Return the values of a named root by the general keys that they replace, with their sources.

    Its limits and protected patterns are added to the general ones.

    Raises:
        ConfigurationError: the file has no root of this name.
    """
    index = next((index for index, entry in enumerate(tables.maintenance.roots) if entry.name == name), None)
    if index is None:
        raise ConfigurationError(_unknown_root(tables, name, file))
    entry, maintenance = tables.maintenance.roots[index], tables.maintenance
    added = {
        "protect": (*maintenance.cleanup.protect, *entry.protect),
        "limits": {**maintenance.pressure.limits, **entry.limits},
    }
    own = [key for key in _GENERAL_KEYS if key in entry.model_fields_set]
    values: dict[str, tuple[object, str]] = {
        "workstream": (WorkstreamStore.model_construct(), DEFAULT),
        "storage": (Storage.model_construct(), DEFAULT),
        "maintenance.database": (None, DEFAULT),
        # A general ping would say that this job ran if only that of another root did.
        "maintenance.ping": (Ping.model_construct(), DEFAULT),
        # A limit of this root in whole GiB takes precedence over a general one of any size.
        **{f"maintenance.pressure.{size}": (None, DEFAULT) for key, size in _USAGE.items() if key in own},
    }
    for key in own:
        general = _GENERAL_KEYS[key]
        source = f"{file}: {f'{general} and ' if key in added else ''}maintenance.roots[{index}].{key}"
        values[general] = (added.get(key, getattr(entry, key)), source)
    return values


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
    # What one root measures and removes would belong to the other.
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
        if text and isinstance(text, str):
            found.setdefault(name, _Value(f"{prefix}{key}", text))
    return found


def _unknown_root(tables: ConfigFile, name: str, file: Path | None) -> str:
    option = f"--root {escape(name)}: "
    if not tables.maintenance.roots:
        return f"{option}{f'{file} has no' if file else 'there is no configuration file with'} [[maintenance.roots]]"
    near = nearest(name, (entry.name for entry in tables.maintenance.roots))
    return f"{option}{file} has no root of this name; it has {tables.maintenance.root_names}" + (f"; the nearest is {near}" if near else "")
