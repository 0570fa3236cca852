"""The keys of events are a contract with two clients: one that needs each of them, and exact
types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest

from arawn_cli.errors import Failure
from arawn_cli.events import Event, report_failure, to_json
from arawn_cli.output.schemas import EVENTS, PARTS, events_schema
from tests.conftest import Run
from tests.support.in_process import checked, cleaned, in_trash
from tests.support.tree import SampleTree

COMMON = {"type", "id", "timestamp", "host", "root", "dry_run"}
KEYS = {
    "disk_pressure": "level scope usage_mb limit_mb workstream_id workstream_name usage_bytes limit_bytes percent usage_percent unit "
    "complete reclaimable_bytes forecast_days sample_age_secs",
    "workstream_usage": "workstream_id workstream_name is_scratch level production_bytes work_bytes total_bytes limit_bytes percent "
    "usage_percent other_bytes allocated_bytes largest_file_bytes files sessions complete forecast_days sample_age_secs",
    "disk_check": "level total_usage_bytes limit_bytes percent usage_percent workstreams pressure_events own_files_bytes filesystem "
    "mounted not_counted trash_bytes "
    "sample_age_secs complete duration_ms forecast_days foreign foreign_count foreign_bytes failures failure_count",
    "scratch_session": "session_id action reason detail last_turn last_activity bytes files",
    "scratch_cleanup": "sessions_checked sessions_cleaned bytes_freed bytes_trashed trash_until database_found chats "
    "over_budget_bytes expiring no_sessions cleaned_session_ids sessions_restored sessions_kept failures failure_count trash_bytes "
    "duration_ms",
    "trash_entry": "session_id action removed_at purged_from held purged_at reason bytes files path",
}
COMMAND_KEYS = {
    "schedule_status": "job scheduler scope installed enabled next_run last_run result problems",
    "doctor_check": "check status detail fix",
    "effective_setting": "key value source",
    "doctor": "ok warn fail",
}
PART_KEYS = {
    "Filesystem": "mountpoint total_bytes used_bytes free_bytes total_inodes used_inodes free_inodes",
    "FailureReport": "session_id operation path errno message",
    "ForeignEntry": "name bytes",
}
WORDS = {
    ("DiskPressure", "level"): "ok warning critical unknown",
    ("DiskPressure", "unit"): "bytes inodes",
    ("WorkstreamUsage", "level"): "ok warning critical unknown",
    ("DiskCheck", "level"): "ok warning critical unknown",
    ("ScratchSessionEvent", "action"): "deleted trashed restored would_delete would_trash would_restore kept failed",
    ("ScratchSessionEvent", "reason"): "active recent_files kept_last protected attached locked in_use mount_inside not_a_directory "
    "foreign_name activity_unknown future_timestamp not_permitted cannot_move changed_since_plan removal_limit expired over_budget "
    "io_error",
    ("ScratchCleanup", "chats"): "kept without_files deleted",
    ("TrashEntryEvent", "action"): "listed restored purged would_purge being_purged failed",
    ("ScheduleStatus", "job"): "scratch-cleanup disk-check",
    ("ScheduleStatus", "installed"): "missing current outdated edited foreign",
    ("ScheduleStatus", "result"): "success failed locked",
    ("DoctorCheck", "status"): "ok warn fail",
}


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def descriptions(kind: type) -> dict[str, str]:
    """The description of each field of an event or of a part of one, by name."""
    return {field.name: field.metadata["description"] for field in fields(kind)}


def definitions() -> dict[str, dict[str, Any]]:
    """The definitions of the schema, by name."""
    return cast("dict[str, dict[str, Any]]", events_schema()["$defs"])


def first(written: object) -> object:
    """The only one of a list."""
    assert isinstance(written, list)
    (only,) = written
    return only


@pytest.fixture
def events(tree: SampleTree, tmp_path: Path) -> dict[str, dict[str, object]]:
    """One event of each type, as it is written."""
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.pressure]\nsession = 104\n[maintenance.cleanup]\ntrash_days = 1\n")
    tree.session("s", files={"f": 1000}, age_days=30)
    (tree.root / "workstreams" / "not Arawn's").touch()
    told = [*checked(tree, config)[1], *cleaned(tree, config=config)[1], *in_trash(tree, config)]
    return {event.type: json.loads(to_json(event), object_pairs_hook=unique) for event in told}


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_each_event_are_pinned(events: dict[str, dict[str, object]], name: str) -> None:
    assert set(events[name]) == COMMON | set(KEYS[name].split())


def test_the_keys_of_what_events_hold_are_pinned(events: dict[str, dict[str, object]], tree: SampleTree) -> None:
    assert {part.__name__: {field.name for field in fields(part)} for part in PARTS} == {
        name: set(keys.split()) for name, keys in PART_KEYS.items()
    }
    check = events["disk_check"]
    failed = json.loads(to_json(replace(checked(tree)[0].summary, failures=(report_failure(Failure("open", "x", 13)),))))
    for name, written in (("Filesystem", check["filesystem"]), ("ForeignEntry", first(check["foreign"]))):
        assert isinstance(written, dict)
        assert set(written) == set(PART_KEYS[name].split())
    assert set(failed["failures"][0]) == set(PART_KEYS["FailureReport"].split())


def test_no_type_of_event_is_without_pinned_keys() -> None:
    kinds = {str(field.default) for kind in EVENTS for field in fields(kind) if field.name == "type"}
    assert kinds == {*KEYS, *COMMAND_KEYS}


@pytest.mark.parametrize("kind", [Event, *EVENTS, *PARTS], ids=lambda kind: str(kind.__name__))
def test_each_field_has_a_description(kind: type) -> None:
    assert all(re.fullmatch(r"\S[^\n]+[^.\s]", description) for description in descriptions(kind).values())


@pytest.mark.parametrize("kind", [*EVENTS, *PARTS], ids=lambda kind: str(kind.__name__))
def test_the_schema_has_the_description_of_each_field_and_requires_it(kind: type) -> None:
    definition = definitions()[kind.__name__]
    assert {name: each["description"] for name, each in definition["properties"].items()} == descriptions(kind)
    assert definition["required"] == list(definition["properties"])


def test_the_words_of_each_closed_set_are_pinned() -> None:
    found = {}
    for name, definition in definitions().items():
        for key, value in definition.get("properties", {}).items():
            for reference in (each["$ref"] for each in (value, *value.get("anyOf", ())) if "$ref" in each):
                if (words := definitions()[reference.rpartition("/")[2]].get("enum")) is not None:
                    found[name, key] = " ".join(words)
    assert found == WORDS


def test_the_keys_of_what_commands_about_the_timers_write_are_pinned(run: Callable[..., Run], tree: SampleTree) -> None:
    commands = (("doctor",), ("schedule", "status", "--cron", "--system"))
    lines = [line for command in commands for line in run(*command, "--base-path", tree.root).stdout.splitlines()]
    found = {str(event["type"]): set(event) for event in (json.loads(line, object_pairs_hook=unique) for line in lines)}
    assert found == {name: COMMON | set(keys.split()) for name, keys in COMMAND_KEYS.items()}


def test_numbers_of_disk_pressure_are_not_negative_and_the_percentage_fits_in_a_byte(events: dict[str, dict[str, object]]) -> None:
    event = events["disk_pressure"]
    kinds = {"usage_mb": float, "limit_mb": float, "usage_bytes": int, "limit_bytes": int, "percent": int}
    assert {key: type(event[key]) for key in kinds} == kinds
    assert all(float(str(event[key])) >= 0 for key in kinds)
    assert event["percent"] == 255
    assert event["scope"] == event["workstream_id"] == "session:s"
