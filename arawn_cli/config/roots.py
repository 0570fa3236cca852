"""Apply `[[maintenance.roots]]`: several roots in one file, each with its own values for some keys.

A root never shares its path or database with another one: evidence of one root must not decide
about the sessions of another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.arawn.layout import DATABASE_V0, WORKSTREAMS
from arawn_cli.config.lookup import PathBase
from arawn_cli.config.schema import ConfigFile, NamedRoot, Ping
from arawn_cli.config.validation import format_value, nearest
from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape

_USAGE = {"total_warning_gb": "total", "workstream_warning_gb": "workstream", "session_warning_mb": "session"}
"""The limits of `[paths.usage]`, and the keys of `[maintenance.pressure]` that replace them."""

_CLEANUP = ("keep_last", "max_total", "min_free_percent", "min_age_days")

PINGS = ("scratch_cleanup", "disk_check")
"""The keys of `[maintenance.ping]`."""

_SIZES = (*_USAGE.values(), "own_files")

OVERRIDDEN_KEYS = {
    "path": "maintenance.root",
    "database": "maintenance.database",
    "scratch_cleanup_days": "paths.cleanup.scratch_cleanup_days",
    **{key: f"paths.usage.{key}" for key in _USAGE},
    **{key: f"maintenance.pressure.{key}" for key in _SIZES},
    "limits": "maintenance.pressure.limits",
    "protect": "maintenance.cleanup.protect",
    **{key: f"maintenance.cleanup.{key}" for key in _CLEANUP},
    **{key: f"maintenance.ping.{key}" for key in PINGS},
}
"""The keys of a named root, and the general keys for which they give the value."""

ADDED_KEYS = ("limits", "protect")
"""Keys of a named root whose values are added to the general ones."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of the file, and the dotted key that has it."""

    key: str
    text: str


_Owner = dict[str, _Value]
"""The name, path and database of one root, as far as the file has them."""


def index_of(tables: ConfigFile, name: str) -> int | None:
    """Return the position of a name in the list of roots."""
    return next((index for index, entry in enumerate(tables.maintenance.roots) if entry.name == name), None)


def tables_of_root(tables: ConfigFile, name: str, file: Path | None) -> ConfigFile:
    """Return the tables with the values of a named root.

    Its limits and protected patterns are added. Its pings are its own alone.

    Raises:
        ConfigurationError: the file has no root of this name.

    """
    index = index_of(tables, name)
    if index is None:
        raise ConfigurationError(_unknown_root(tables, name, file))
    entry, paths, maintenance = tables.maintenance.roots[index], tables.paths, tables.maintenance
    own_paths = {
        "usage": paths.usage.model_copy(update=_own_values(entry, *_USAGE)),
        "cleanup": paths.cleanup.model_copy(update=_own_values(entry, "scratch_cleanup_days")),
    }
    # A limit of this root in whole GiB takes precedence over a general one of any size.
    sizes = {size: None for key, size in _USAGE.items() if getattr(entry, key) is not None} | _own_values(entry, *_SIZES)
    protect = {"protect": (*maintenance.cleanup.protect, *entry.protect)} if entry.protect else {}
    limits = {"limits": {**maintenance.pressure.limits, **entry.limits}} if entry.limits else {}
    own_maintenance = {
        "cleanup": maintenance.cleanup.model_copy(update=protect | _own_values(entry, *_CLEANUP)),
        "pressure": maintenance.pressure.model_copy(update={**sizes, **limits}),
        # A general ping would say that this job ran if only that of another root did.
        "ping": Ping().model_copy(update=_own_values(entry, *PINGS)),
        "root": entry.path,
        "database": entry.database,
    }
    return ConfigFile(
        paths=paths.model_copy(update=own_paths),
        maintenance=maintenance.model_copy(update=own_maintenance),
    )


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
        taken = _default_databases(owners, base) if key == "database" else {}
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


def _owners(document: Mapping[str, object]) -> Iterator[_Owner]:
    """Yield the main root, and then each named one."""
    paths, workstream, maintenance = (_table(document.get(name)) for name in ("paths", "workstream", "maintenance"))
    main = {"path": ("workstream.data_dir", workstream.get("data_dir")), "database": ("workstream.database", workstream.get("database"))}
    if "base_path" in paths:
        main["path"] = ("paths.base_path", paths["base_path"])
    for key, own in (("path", "root"), ("database", "database")):
        if maintenance.get(own):
            main[key] = (f"maintenance.{own}", maintenance[own])
    yield {key: _Value(dotted, value) for key, (dotted, value) in main.items() if isinstance(value, str)}
    entries = maintenance.get("roots")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        values = ((key, _table(entry).get(key)) for key in ("name", "path", "database"))
        yield {key: _Value(f"maintenance.roots[{index}].{key}", value) for key, value in values if isinstance(value, str) and value}


def _default_databases(owners: list[_Owner], base: PathBase) -> dict[str, str]:
    """Return the databases that are used by default, with the keys of their roots."""
    unnamed = (owner["path"] for owner in owners if "path" in owner and "database" not in owner)
    return {base.normal(os.path.join(path.text, DATABASE_V0)): path.key for path in unnamed}


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _own_values(entry: NamedRoot, *keys: str) -> dict[str, object]:
    return {key: getattr(entry, key) for key in keys if getattr(entry, key) is not None}


def _unknown_root(tables: ConfigFile, name: str, file: Path | None) -> str:
    option = f"--root {escape(name)}: "
    if not tables.maintenance.roots:
        return f"{option}{f'{file} has no' if file else 'there is no configuration file with'} [[maintenance.roots]]"
    near = nearest(name, (entry.name for entry in tables.maintenance.roots))
    return f"{option}{file} has no root of this name; it has {tables.maintenance.root_names}" + (f"; the nearest is {near}" if near else "")
