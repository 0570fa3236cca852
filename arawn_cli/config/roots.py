"""Several roots in one file: `[[maintenance.roots]]`, each with what it has of its own in the place of the other tables' values.

What belongs to the main root alone is its path and its database: evidence of one root must never judge the sessions of another.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from arawn_cli.arawn.layout import DATABASE
from arawn_cli.config.paths import Base
from arawn_cli.config.schema import ConfigFile, NamedRoot, WorkstreamStore
from arawn_cli.config.validation import shown
from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape

_USAGE = ("total_warning_gb", "workstream_warning_gb", "session_warning_mb")


TAKES_THE_PLACE_OF = {
    "path": "paths.base_path",
    "database": "workstream.database",
    "scratch_cleanup_days": "paths.cleanup.scratch_cleanup_days",
    **{key: f"paths.usage.{key}" for key in _USAGE},
    "limits": "maintenance.pressure.limits",
    "protect": "maintenance.cleanup.protect",
}
"""The key of a named root, and the key of the other tables whose value it is for that root."""


ADDED = ("limits", "protect")
"""Keys of a named root that leave what the other tables say in force."""


def index_of(tables: ConfigFile, name: str) -> int | None:
    """Where in the list of roots a name stands."""
    return next((index for index, entry in enumerate(tables.maintenance.roots) if entry.name == name), None)


def names_of(tables: ConfigFile) -> str:
    """The names of all roots in a sentence."""
    return ", ".join(entry.name for entry in tables.maintenance.roots)


def as_named(tables: ConfigFile, name: str, file: Path | None) -> ConfigFile:
    """The tables as they are for a named root.

    Limits of workstreams, and patterns of what is protected, are added to those for all roots.

    Raises:
        ConfigurationError: the file names no such root.
    """
    index = index_of(tables, name)
    if index is None:
        raise ConfigurationError(_unknown(tables, name, file))
    entry, paths, maintenance = tables.maintenance.roots[index], tables.paths, tables.maintenance
    protect = (*maintenance.cleanup.protect, *entry.protect)
    limits = {**maintenance.pressure.limits, **entry.limits}
    own_paths = {
        "base_path": entry.path,
        "usage": paths.usage.model_copy(update=_own(entry, *_USAGE)),
        "cleanup": paths.cleanup.model_copy(update=_own(entry, "scratch_cleanup_days")),
    }
    own_maintenance = {
        "cleanup": maintenance.cleanup.model_copy(update={"protect": protect} if entry.protect else {}),
        "pressure": maintenance.pressure.model_copy(update={"limits": limits} if entry.limits else {}),
    }
    return ConfigFile(
        paths=paths.model_copy(update=own_paths),
        workstream=WorkstreamStore.model_validate(_own(entry, "database")),
        maintenance=maintenance.model_copy(update=own_maintenance),
    )


def clashes(document: Mapping[str, object], base: Base) -> list[str]:
    """What two roots of a file share and must not, a line each; of a file as it is read, so that all faults are told at once."""
    lines = []
    owners = list(_owners(document))
    for key in ("name", "path", "database"):
        taken = _default_databases(owners, base) if key == "database" else {}
        for owner in owners:
            if key not in owner:
                continue
            where, value = owner[key]
            other = taken.setdefault(value if key == "name" else base.normal(value), where)
            if other != where:
                lines.append(f"{where}: found {shown(value)}; allowed: a {key} of its own, and this is that of {other}")
    return lines + list(_nested(owners, base))


def _nested(owners: list[dict[str, tuple[str, str]]], base: Base) -> Iterator[str]:
    """Roots below the workstreams of another: what that one measures and removes would be this one's."""
    paths = [owner["path"] for owner in owners if "path" in owner]
    for where, path in paths:
        for other, outer in paths:
            if f"{base.normal(path)}/".startswith(f"{base.normal(outer).rstrip('/')}/workstreams/"):
                yield f"{where}: found {shown(path)}; allowed: a path that is not below the workstreams of {other}"


def refuse_another(root: Path, name: str | None, tables: ConfigFile, base: Base) -> None:
    """Makes sure that the root of a run is none for which the file has other rules; no other root's disk is touched.

    Raises:
        ConfigurationError: it is, by a link or by what the command line or the environment says.
    """
    if not tables.maintenance.roots:
        return
    found = (os.path.normpath(root), os.path.realpath(root))
    for entry in tables.maintenance.roots:
        if entry.name != name and base.normal(entry.path) in found:
            raise ConfigurationError(f"{root} is the root {entry.name}, for which the file has rules of its own: say --root {entry.name}")
    main = tables.paths.base_path or tables.workstream.data_dir
    if name is not None and main is not None and base.normal(main) in found:
        raise ConfigurationError(
            f"the root {name} is the main root, {main}: it cannot have two sets of rules; take one of them out of the file"
        )


def _owners(document: Mapping[str, object]) -> Iterator[dict[str, tuple[str, str]]]:
    """The main root and then each named one: name, path and database as far as the file says them, with the dotted path of each."""
    paths, workstream, maintenance = (_table(document.get(name)) for name in ("paths", "workstream", "maintenance"))
    main = {"path": ("workstream.data_dir", workstream.get("data_dir")), "database": ("workstream.database", workstream.get("database"))}
    if "base_path" in paths:
        main["path"] = ("paths.base_path", paths["base_path"])
    yield {key: (where, value) for key, (where, value) in main.items() if isinstance(value, str)}
    entries = maintenance.get("roots")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        given = ((key, _table(entry).get(key)) for key in ("name", "path", "database"))
        yield {key: (f"maintenance.roots[{index}].{key}", value) for key, value in given if isinstance(value, str)}


def _default_databases(owners: list[dict[str, tuple[str, str]]], base: Base) -> dict[str, str]:
    """Whose each database is that is not named, but taken where it is there."""
    unnamed = (owner["path"] for owner in owners if "path" in owner and "database" not in owner)
    return {base.normal(os.path.join(path, DATABASE)): where for where, path in unnamed}


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _own(entry: NamedRoot, *keys: str) -> dict[str, object]:
    return {key: getattr(entry, key) for key in keys if getattr(entry, key) is not None}


def _unknown(tables: ConfigFile, name: str, file: Path | None) -> str:
    asked = f"--root {escape(name)}: "
    if not tables.maintenance.roots:
        return f"{asked}{f'{file} has no' if file else 'there is no configuration file with'} [[maintenance.roots]]"
    near = difflib.get_close_matches(name, (entry.name for entry in tables.maintenance.roots), n=1)
    return f"{asked}no root of this name in {file}; it has {names_of(tables)}" + (f"; the nearest is {near[0]}" if near else "")
