"""Where each value of the effective configuration comes from: a flag, the environment, the file, or a default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.relay_url import redact_value
from arawn_cli.config.roots import ADDED, TAKES_THE_PLACE_OF, index_of

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """One value: its dotted key, the value as JSON writes it, and its source.

    That is a flag, `$VARIABLE`, the path of the file, `default`, or for what a named root has of its own the path and the key there.
    """

    key: str
    value: str
    source: str


def settings_of(config: Config, flags: Flags, environment: Mapping[str, str]) -> list[Setting]:
    """Every key of the configuration tables, in their order, with the value that a run takes."""
    overriding = _overriding(config, flags, environment)
    found = []
    for key, value, is_set in _leaves(config.tables, ""):
        source = str(config.file) if is_set and config.file else DEFAULT
        if key in overriding:
            value, source = overriding[key][0], overriding[key][1] or source
        found.append(Setting(key, _shown(value), source))
    return found


def root_source(config: Config, flags: Flags, environment: Mapping[str, str]) -> str:
    """What named the root; `default` where it was looked for."""
    if flags.root is not None:
        return _of_named(config, flags.root, "path")
    if flags.base_path is not None:
        return "--base-path"
    if "ARAWN_BASE_PATH" in environment:
        return "$ARAWN_BASE_PATH"
    named = config.tables.paths.base_path is not None or config.tables.workstream.data_dir is not None
    return str(config.file) if named else DEFAULT


def _overriding(config: Config, flags: Flags, environment: Mapping[str, str]) -> dict[str, tuple[object, str | None]]:
    """Values that the file does not decide alone, with a source, or None for what the file says of it."""
    found: dict[str, tuple[object, str | None]] = {}
    if config.root_name is not None:
        found |= _named(config, config.root_name)
    found["paths.base_path"] = (str(config.root), root_source(config, flags, environment))
    if flags.older_than_days is not None:
        found["paths.cleanup.scratch_cleanup_days"] = (flags.older_than_days, "--older-than-days")
    if flags.dry_run is not None:
        found["paths.cleanup.dry_run"] = (flags.dry_run, "--dry-run")
    if flags.relay_url is not None:
        found["maintenance.relay.url"] = (flags.relay_url, "--relay-url")
    given = not config.maintenance.state_dir and bool(environment.get("STATE_DIRECTORY"))
    found["maintenance.state_dir"] = (str(config.state_directory), "$STATE_DIRECTORY" if given else None)
    return found


def _named(config: Config, name: str) -> dict[str, tuple[object, str | None]]:
    """What a named root has of its own: the values stand in the tables already."""
    values = {key: value for key, value, _ in _leaves(config.tables, "")}
    own = config.tables.maintenance.roots[index_of(config.tables, name) or 0].model_fields_set & TAKES_THE_PLACE_OF.keys()
    return {(key := TAKES_THE_PLACE_OF[each]): (values[key], _of_named(config, name, each)) for each in own}


def _of_named(config: Config, name: str, key: str) -> str:
    more = f"{TAKES_THE_PLACE_OF[key]} and " if key in ADDED else ""
    return f"{config.file}: {more}maintenance.roots[{index_of(config.tables, name)}].{key}"


def _leaves(table: BaseModel, prefix: str) -> Iterator[tuple[str, object, bool]]:
    """Key, value, and whether the file gives it; a table that the file leaves out gives nothing."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, name in table.model_fields_set


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        value = [item.model_dump() if isinstance(item, BaseModel) else item for item in value]
    text = json.dumps(value, ensure_ascii=False, default=str)
    return redact_value(text) if "://" in text else text
