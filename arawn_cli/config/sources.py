"""Find the source of each value in effect: a flag, the environment, the file or a default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.lookup import DEFAULT
from arawn_cli.config.relay_url import redact_value
from arawn_cli.config.roots import ADDED_KEYS, OVERRIDDEN_KEYS, index_of


@dataclass(frozen=True, slots=True)
class Setting:
    """One value: its dotted key, the value as JSON text, and its source.

    The source is a flag, `$VARIABLE`, the path of the file (with the key, for values of a named
    root) or `default`.
    """

    key: str
    value: str
    source: str


def settings_of(config: Config, flags: Flags, environment: Mapping[str, str]) -> list[Setting]:
    """Return every key of the tables, in their order, with the value in effect."""
    overrides = _overrides(config, flags, environment)
    found = []
    for key, value, is_set in _leaves(config.tables, ""):
        source = str(config.file) if is_set and config.file else DEFAULT
        if key in overrides:
            value, source = overrides[key][0], overrides[key][1] or source
        found.append(Setting(key, _format(value), source))
    return found


def _overrides(config: Config, flags: Flags, environment: Mapping[str, str]) -> dict[str, tuple[object, str | None]]:
    """Return values that come from elsewhere, with their source, or None for that of the file."""
    found: dict[str, tuple[object, str | None]] = {}
    if config.root_name is not None:
        values = {key: value for key, value, _ in _leaves(config.tables, "")}
        entry = config.tables.maintenance.roots[index_of(config.tables, config.root_name) or 0]
        for key in entry.model_fields_set & OVERRIDDEN_KEYS.keys():
            found[OVERRIDDEN_KEYS[key]] = (values[OVERRIDDEN_KEYS[key]], _key_of_root(config, config.root_name, key))
    else:
        found["maintenance.root"] = (str(config.root), config.root_source)
    if config.tables.maintenance.database is None:
        database = next((str(place) for place in config.databases if place.exists()), None)
        found["maintenance.database"] = (database, DEFAULT)
    if flags.older_than_days is not None:
        found["paths.cleanup.scratch_cleanup_days"] = (flags.older_than_days, "--older-than-days")
    if flags.dry_run is not None:
        found["paths.cleanup.dry_run"] = (flags.dry_run, "--dry-run")
    if flags.relay_url is not None:
        found["maintenance.relay.url"] = (flags.relay_url, "--relay-url")
    if config.maintenance.cleanup.keep_chats is None:
        found["maintenance.cleanup.keep_chats"] = ("true on Arawn's main branch, false on 0.0", None)
    from_systemd = not config.maintenance.state_dir and bool(environment.get("STATE_DIRECTORY"))
    found["maintenance.state_dir"] = (str(config.state_directory), "$STATE_DIRECTORY" if from_systemd else None)
    return found


def _key_of_root(config: Config, name: str, key: str) -> str:
    general = f"{OVERRIDDEN_KEYS[key]} and " if key in ADDED_KEYS else ""
    return f"{config.file}: {general}maintenance.roots[{index_of(config.tables, name)}].{key}"


def _leaves(table: BaseModel, prefix: str) -> Iterator[tuple[str, object, bool]]:
    """Yield the dotted key of each value, the value, and whether the file sets it."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, name in table.model_fields_set


def _format(value: object) -> str:
    if isinstance(value, tuple):
        value = [item.model_dump() if isinstance(item, BaseModel) else item for item in value]
    text = json.dumps(value, ensure_ascii=False, default=str)
    return redact_value(text) if "://" in text else text
