"""The keys of events are a contract with two clients: one that needs each of them, and exact types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.events import percent_of, to_json
from arawn_cli.reference.schemas import events_schema
from arawn_cli.sample_tree import SampleTree
from tests.conftest import Run
from tests.in_process import checked, cleaned

COMMON = {"type", "id", "timestamp", "host", "root", "dry_run"}
KEYS = {
    "disk_pressure": "level scope usage_mb limit_mb workstream_id workstream_name usage_bytes limit_bytes percent unit complete "
    "reclaimable_bytes forecast_days sample_age_secs",
    "workstream_usage": "workstream_id workstream_name is_scratch production_bytes work_bytes total_bytes limit_bytes percent "
    "other_bytes allocated_bytes largest_file_bytes files sessions complete forecast_days sample_age_secs",
    "disk_check": "level total_usage_bytes limit_bytes percent workstreams pressure_events filesystem trash_bytes "
    "sample_age_secs complete duration_ms forecast_days foreign failures",
    "scratch_session": "session_id action reason last_turn last_activity bytes files",
    "scratch_cleanup": "sessions_checked sessions_cleaned bytes_reclaimed cleaned_session_ids sessions_skipped failures trash_bytes "
    "duration_ms",
}
COMMAND_KEYS = {
    "schedule_status": "job scheduler scope installed enabled next_run last_run result problems",
    "doctor_check": "check status detail mend",
    "effective_setting": "key value source",
    "doctor": "ok warn fail",
}
WORDS = {
    ("DiskPressure", "level"): "ok warning critical unknown",
    ("DiskPressure", "unit"): "bytes inodes",
    ("DiskCheck", "level"): "ok warning critical unknown",
    ("ScratchSessionEvent", "action"): "deleted would_delete kept skipped failed",
    ("ScratchSessionEvent", "reason"): "active recent_files protected locked in_use mount_inside not_a_directory foreign_name "
    "activity_unknown future_timestamp changed_since_plan brake expired io_error",
    ("TrashEntryEvent", "action"): "listed restored purged would_purge being_purged failed",
    ("ScheduleStatus", "installed"): "missing current outdated edited foreign",
    ("DoctorCheck", "status"): "ok warn fail",
}


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.fixture
def events(tree: SampleTree, tmp_path: Path) -> dict[str, dict[str, object]]:
    """One event of each type, as it is written."""
    config = tmp_path / "c.toml"
    config.write_text("[paths.usage]\nsession_warning_mb = 0.0001\n")
    tree.session("s", files={"f": 1000}, age_days=30)
    told = [*checked(tree, config)[1], *cleaned(tree)[1]]
    return {event.type: json.loads(to_json(event), object_pairs_hook=unique) for event in told}


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_each_event_are_pinned(events: dict[str, dict[str, object]], name: str) -> None:
    assert set(events[name]) == COMMON | set(KEYS[name].split())


def test_the_words_of_each_closed_set_are_pinned() -> None:
    definitions = events_schema()["$defs"]
    assert isinstance(definitions, dict)
    found = {}
    for name, definition in definitions.items():
        for key, value in definition.get("properties", {}).items():
            words = definitions[value["$ref"].rpartition("/")[2]].get("enum") if "$ref" in value else None
            if words is not None:
                found[name, key] = " ".join(words)
    assert found == WORDS


def test_the_keys_of_what_commands_about_the_timers_write_are_pinned(run: Callable[..., Run], tree: SampleTree) -> None:
    commands = (("doctor",), ("schedule", "status", "--cron", "--system"))
    lines = [line for command in commands for line in run(*command, "--base-path", tree.root).stdout.splitlines()]
    found = {str(event["type"]): set(event) for event in (json.loads(line, object_pairs_hook=unique) for line in lines)}
    assert found == {name: COMMON | set(keys.split()) for name, keys in COMMAND_KEYS.items()}


def test_numbers_of_disk_pressure_are_unsigned_integers_and_the_percentage_fits_in_a_byte(events: dict[str, dict[str, object]]) -> None:
    event = events["disk_pressure"]
    for key in ("usage_mb", "limit_mb", "usage_bytes", "limit_bytes", "percent"):
        value = event[key]
        assert type(value) is int
        assert value >= 0
    assert event["percent"] == 255
    assert event["scope"] == event["workstream_id"] == "session:s"


@given(st.integers(0, 2**63), st.integers(1, 2**63))
def test_a_percentage_always_fits_in_a_byte(usage: int, limit: int) -> None:
    assert 0 <= percent_of(usage, limit) <= 255
