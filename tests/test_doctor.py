"""What doctor says of a sound installation, and of each way in which one is not."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from arawn_cli.config import Flags, load
from arawn_cli.doctor.findings import Finding, Status
from arawn_cli.doctor.means import outbox_finding, state_findings
from arawn_cli.doctor.timers import timer_findings
from arawn_cli.doctor.tree import tree_findings
from arawn_cli.instants import DAY
from arawn_cli.origins import settings_of
from arawn_cli.sample_tree import SampleTree
from arawn_cli.state import State
from tests.conftest import Run, snapshot
from tests.in_process import NOWHERE

COMMON = {"type", "id", "timestamp", "host", "dry_run"}


def findings(tree: SampleTree, now: int | None = None) -> dict[str, Finding]:
    config = load(Flags(None, str(tree.root)), {"ARAWN_CONFIG_DIR": str(_empty(tree))}, system_file=NOWHERE)
    return {finding.check: finding for finding in tree_findings(config, now or time.time_ns())}


def _empty(tree: SampleTree) -> Path:
    directory = tree.root.parent / "config"
    directory.mkdir(exist_ok=True)
    (directory / "config.toml").touch()
    return directory


def test_doctor_prints_findings_and_sources_as_events_and_changes_nothing(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[paths.cleanup]\nscratch_cleanup_days = 9\n")
    before = snapshot(tmp_path)
    done = run("doctor", "--config", config, ARAWN_BASE_PATH=str(tree.root))
    assert snapshot(tmp_path) == before
    assert done.code == 1  # nothing runs the jobs here
    assert {frozenset(event) for event in done.of_type("doctor_check")} == {frozenset(COMMON | {"check", "status", "detail", "mend"})}
    checks = {str(event["check"]): event for event in done.of_type("doctor_check")}
    expected = {
        "configuration",
        "root",
        "database",
        "messages",
        "lock",
        "trash",
        "state",
        "space for state",
        "outbox",
        "relay",
        "clock",
        "timers",
    }
    assert checks.keys() == expected
    assert {name for name, event in checks.items() if event["status"] == "fail"} == {"timers"}
    assert all((event["mend"] is None) is (event["status"] == "ok") for event in checks.values())
    assert set(done.last) == COMMON | {"ok", "warn", "fail"}
    assert done.last["fail"] == 1
    sources = {event["key"]: (event["value"], event["source"]) for event in done.of_type("effective_setting")}
    assert sources["paths.cleanup.scratch_cleanup_days"] == ("9", str(config))
    assert sources["paths.base_path"] == (json.dumps(str(tree.root)), "$ARAWN_BASE_PATH")
    assert sources["maintenance.nice"] == ("10", "default")


def test_a_wrong_configuration_is_the_one_finding(run: Callable[..., Run], tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.schedule]\ndisk_check = 'often'\n")
    done = run("doctor", "--config", config, "--format", "table")
    assert done.code == 1
    assert done.stdout.startswith("fail  configuration:")
    assert "maintenance.schedule.disk_check: found 'often'; allowed: a duration such as 5m or 24h, or one of minutely," in done.stdout
    assert "\n      -> mend the file" in done.stdout
    assert done.stderr == ""


def test_a_sound_tree_is_ok_throughout(tree: SampleTree) -> None:
    tree.turn("s", tree.now)
    assert {finding.status for finding in findings(tree).values()} == {Status.OK}


def test_a_missing_or_unsafe_root_fails(tree: SampleTree) -> None:
    tree.root.chmod(0o777)
    assert "writable by everyone" in findings(tree)["root"].detail
    tree.root.rename(tree.root.with_name("away"))
    (finding,) = findings(tree).values()
    assert (finding.status, finding.check) == (Status.FAIL, "root")


def test_what_cannot_be_read_fails(tree: SampleTree) -> None:
    tree.database.write_bytes(b"no database, and long enough to be looked at as one" * 10)
    tree.messages.mkdir()
    found = findings(tree)
    assert found["database"].status is Status.FAIL
    assert found["messages"].status is Status.FAIL


def test_a_run_at_work_and_a_forgotten_trash_warn(tree: SampleTree) -> None:
    trash = tree.workstreams / "scratch" / ".trash"
    trash.mkdir()
    (trash / "old.20200101T000000Z.01234567").mkdir()
    holder = os.open(tree.workstreams, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    found = findings(tree)
    os.close(holder)
    assert found["lock"].status is Status.WARN
    assert found["trash"].status is Status.WARN
    assert "1 removed sessions wait" in found["trash"].detail
    assert findings(tree, now=1577836800 * 10**9 + DAY // 2)["trash"].status is Status.OK


def test_the_outbox_tells_what_waits_and_what_was_refused(tmp_path: Path) -> None:
    assert outbox_finding(tmp_path).status is Status.OK
    state = State(tmp_path, time.time_ns)
    state.ready()
    state.close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(
            "INSERT INTO outbox (event_id, type, time, source, scope, level, worth, body) VALUES ('a','t','t','s','','',0,x'00')"
        )
    assert "1 events wait for the relay" in outbox_finding(tmp_path).detail
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE outbox SET answer = '413'")
    assert "1 of them refused" in outbox_finding(tmp_path).detail
    (tmp_path / "state.db").write_bytes(b"x" * 4096)
    assert outbox_finding(tmp_path).status is Status.WARN


def test_state_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    for made_by_systemd in (True, False):
        found = {finding.check: finding.status for finding in state_findings(tmp_path / "a" / "b", made_by_systemd=made_by_systemd)}
        assert found["state"] is Status.OK
        assert not (tmp_path / "a").exists()


def test_no_timers_fail_with_the_command_that_installs_them() -> None:
    (finding,) = timer_findings([], {})
    assert (finding.status, finding.mend) == (Status.FAIL, "sudo arawn-cli schedule install, or arawn-cli schedule install --user")


def test_each_value_names_its_source(tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    relay = '[maintenance.relay]\nurl = "https://me:secret@relay.example/pub?key=secret"\n'
    file.write_text(f'[paths]\nbase_path = "{tree.root}"\n[maintenance.cleanup]\nprotect = ["keep-*"]\n{relay}')
    environment = {"STATE_DIRECTORY": "/var/lib/x"}
    flags = Flags(file, older_than_days=3, dry_run=True)
    found = {setting.key: setting for setting in settings_of(load(flags, environment), flags, environment)}
    assert found["paths.base_path"].source == str(file)
    assert found["paths.cleanup.scratch_cleanup_days"] == type(found["paths.base_path"])(
        "paths.cleanup.scratch_cleanup_days", "3", "--older-than-days"
    )
    assert found["paths.cleanup.dry_run"].source == "--dry-run"
    assert (found["maintenance.state_dir"].value, found["maintenance.state_dir"].source) == ('"/var/lib/x"', "$STATE_DIRECTORY")
    assert found["maintenance.cleanup.protect"].value == '["keep-*"]'
    assert "secret" not in found["maintenance.relay.url"].value
    assert found["maintenance.threads"].source == "default"


@pytest.mark.parametrize("key", ["schedule.scratch_cleanup", "schedule.disk_check"])
def test_the_schedule_has_an_effect(key: str, tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    table, name = key.split(".")
    file.write_text(f"[maintenance.{table}]\n{name} = '1h'\n")
    assert load(Flags(file, str(tree.root)), {}).without_effect == ()
