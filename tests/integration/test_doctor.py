"""What doctor says of a sound installation, and of each way in which one is not."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from arawn_cli.cli.demo import SampleTree
from arawn_cli.cli.doctor import run_doctor
from arawn_cli.cli.runner import Output
from arawn_cli.config.loader import Flags, load
from arawn_cli.config.sources import settings_of
from arawn_cli.doctor import environment
from arawn_cli.doctor.environment import state_findings
from arawn_cli.doctor.findings import Finding
from arawn_cli.doctor.tree import tree_findings
from arawn_cli.events import Status
from arawn_cli.schedule.settings import Account, own_account
from arawn_cli.state import State
from arawn_cli.timestamps import DAY
from tests.conftest import Run, needs_namespaces, needs_root, snapshot
from tests.support.doctor_inputs import NOBODY, config_of, open_to_all, shell_of
from tests.unit.config.test_config import of_another

__all__ = ["of_another"]

COMMON = {"type", "id", "timestamp", "host", "root", "dry_run"}


def findings(tree: SampleTree, now: int | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in tree_findings(config_of(tree), now or time.time_ns(), shell_of(tree))}


def test_doctor_prints_findings_and_sources_as_events_and_changes_nothing(
    run: Callable[..., Run], tree: SampleTree, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[paths.cleanup]\nscratch_cleanup_days = 9\n")
    before = snapshot(tmp_path)
    done = run("doctor", "--config", config, ARAWN_BASE_PATH=str(tree.root))
    assert snapshot(tmp_path) == before
    assert done.code == 1  # nothing runs the jobs here
    assert {frozenset(event) for event in done.of_type("doctor_check")} == {frozenset(COMMON | {"check", "status", "detail", "fix"})}
    checks = {str(event["check"]): event for event in done.of_type("doctor_check")}
    expected = {
        "configuration",
        "root",
        "measuring",
        "database",
        "messages",
        "processes",
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
    assert all((event["fix"] is None) is (event["status"] == "ok") for event in checks.values())
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
    assert "\n      -> # fix the file" in done.stdout
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


@needs_namespaces
def test_processes_that_the_kernel_hides_are_named_with_who_sees_them(run: Callable[..., Run], tree: SampleTree) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        done = run("doctor", "--base-path", tree.root, prefix=("unshare", "--user", "--map-root-user"))
        process.kill()
    found = next(event for event in done.of_type("doctor_check") if event["check"] == "processes")
    assert found["status"] == "warn"
    assert "the kernel hides what " in str(found["detail"])
    assert "scratch-cleanup --dry-run" in str(found["fix"])


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
    assert "1 removed session," in found["trash"].detail
    assert findings(tree, now=1577836800 * 10**9 + DAY // 2)["trash"].status is Status.OK


def test_the_outbox_tells_what_waits_and_what_was_refused(tmp_path: Path, tree: SampleTree) -> None:
    def outbox_finding(directory: Path) -> Finding:
        return environment.outbox_finding(directory, shell_of(tree), "arawn-cli disk-check")

    assert outbox_finding(tmp_path).status is Status.OK
    state = State(tmp_path, time.time_ns)
    state.open()
    state.close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute(
            "INSERT INTO outbox (event_id, type, time, source, scope, level, drop_priority, body) VALUES ('a','t','t','s','','',0,x'00')"
        )
    assert "1 event not delivered yet" in outbox_finding(tmp_path).detail
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE outbox SET answer = '413'")
    assert "1 of them refused" in outbox_finding(tmp_path).detail
    (tmp_path / "state.db").write_bytes(b"x" * 4096)
    assert outbox_finding(tmp_path).status is Status.WARN


def state_finding(directory: Path, account: Account, tree: SampleTree, *, made_by_systemd: bool = False) -> Finding:
    found = state_findings(directory, account, shell_of(tree), made_by_systemd=made_by_systemd)
    return next(finding for finding in found if finding.check == "state")


def mended(finding: Finding) -> None:
    """Does what a finding says, as it is copied into a shell."""
    assert finding.fix is not None
    subprocess.run(["sh", "-c", finding.fix], check=True, capture_output=True)


def test_state_that_is_not_there_yet_is_no_fault(tmp_path: Path, tree: SampleTree) -> None:
    for made_by_systemd in (True, False):
        found = state_finding(tmp_path / "a" / "b", own_account(), tree, made_by_systemd=made_by_systemd)
        assert found.status is Status.OK
        assert not (tmp_path / "a").exists()


@needs_root
def test_state_is_judged_for_the_account_of_the_jobs_and_its_mend_mends(tmp_path: Path, tree: SampleTree) -> None:
    open_to_all(tmp_path)
    directory = tmp_path / "a state"
    missing = state_finding(directory, NOBODY, tree)
    assert (missing.status, "cannot be written to by nobody" in missing.detail) == (Status.FAIL, True)
    mended(missing)
    assert state_finding(directory, NOBODY, tree).status is Status.OK
    (directory / "state.db").touch()  # as a run by root leaves it
    for fault in (None, 0o777):
        if fault:
            directory.chmod(fault)
        found = state_finding(directory, NOBODY, tree)
        assert found.status is Status.FAIL
        mended(found)
        assert state_finding(directory, NOBODY, tree).status is Status.OK


def test_a_dry_run_that_is_configured_and_a_missing_root_keep_no_other_line_from_being_told(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[paths]\nbase_path = '/nowhere'\n[paths.cleanup]\ndry_run = true\n")
    done = run("doctor", "--config", config)
    checks = {str(event["check"]): event["status"] for event in done.of_type("doctor_check")}
    assert done.code == 1
    assert (checks["configuration"], checks["root"]) == ("warn", "fail")
    assert {"state", "outbox", "relay", "clock", "timers"} <= checks.keys()


@needs_root
def test_a_configuration_of_the_owner_that_is_not_read_is_a_check_of_its_own_and_its_mend_names_it(
    of_another: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(of_another.parents[3]))
    root = of_another.parents[2] / ".arawn"
    output = Output(format="json", verbose=False, quiet=False)
    run_doctor(Flags(base_path=str(root)), output)
    warned = [check for check in map(json.loads, capfd.readouterr().out.splitlines()) if f"{of_another} of" in check.get("detail", "")]
    assert [check["check"] for check in warned] == ["configuration of the owner"]
    words = shlex.split(warned[0]["fix"], comments=True)
    assert words[-5:] == ["doctor", "--config", str(of_another), "--base-path", str(root)]
    run_doctor(Flags(config=of_another, base_path=str(root)), output)
    assert "configuration of the owner" not in capfd.readouterr().out


def test_each_value_names_its_source(tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    relay = '[maintenance.relay]\nurl = "https://me:secret@relay.example/pub?key=secret"\n'
    file.write_text(f'[paths]\nbase_path = "{tree.root}"\n[maintenance.cleanup]\nprotect = ["keep-*"]\n{relay}')
    environment = {"STATE_DIRECTORY": "/var/lib/x"}
    flags = Flags(config=file, older_than_days=3, dry_run=True)
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


@pytest.mark.parametrize(
    "text",
    [
        "[paths.cleanup]\nscratch_cleanup_days = 0\n",
        "[paths]\nbase_path = '/nowhere'\n",
        "[paths.cleanup]\ndry_run = true\n[maintenance.relay]\nurl = 'http://127.0.0.1:1/x'\n",
    ],
    ids=["wrong file", "no root", "dry run, no relay"],
)
def test_what_mends_a_finding_can_be_pasted_into_a_shell(run: Callable[..., Run], tree: SampleTree, tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text if "base_path" in text else f"{text}[paths]\nbase_path = '{tree.root}'\n")
    fixes = [str(event["fix"]) for event in run("doctor", "--config", config).of_type("doctor_check") if event["fix"]]
    assert fixes
    for fix in fixes:
        words = shlex.split(fix, comments=True)
        assert subprocess.run(["sh", "-n", "-c", fix], check=False).returncode == 0, fix
        assert words == [] or shutil.which(words[0]) or words[0] in ("sudo", "arawn-cli"), fix
        assert not any(re.fullmatch("[A-Z]+,?", word) for word in words), fix
