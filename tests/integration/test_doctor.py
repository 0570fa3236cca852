"""The findings of `doctor` for a sound installation, and for each way in which one can be wrong."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import arawn_cli
from arawn_cli.cleanup.history import record
from arawn_cli.cli.doctor import run_doctor
from arawn_cli.cli.options import Format, Output
from arawn_cli.command_events import Status
from arawn_cli.config import relay_url
from arawn_cli.config.loader import Flags, RelayTarget, load, settings_of
from arawn_cli.config.schema import Relay, with_value
from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.doctor import environment, timers
from arawn_cli.doctor.environment import metrics_finding, state_findings
from arawn_cli.doctor.findings import Finding, fail
from arawn_cli.doctor.timers import timer_findings
from arawn_cli.doctor.tree import tree_findings
from arawn_cli.events import JobName
from arawn_cli.fs.permissions import sudo_words
from arawn_cli.locks import lock_file
from arawn_cli.runs import Run as LastRun
from arawn_cli.schedule import settings, status
from arawn_cli.schedule.cron import Daemon, cron_file, start_command
from arawn_cli.schedule.install import Place
from arawn_cli.schedule.managed_files import FileStore, with_header
from arawn_cli.schedule.places import Scheduler, Scope
from arawn_cli.schedule.settings import Account, Shell, own_account
from arawn_cli.schedule.status import Schedule
from arawn_cli.state import State
from arawn_cli.state_file import SCHEMA_VERSION
from arawn_cli.timestamps import DAY
from tests.conftest import Run, needs_namespaces, needs_root, needs_user_namespaces, snapshot
from tests.support.contrary_servers import answering
from tests.support.contrib_settings import SYSTEM
from tests.support.doctor_inputs import NOBODY, config_of, public_directory, shell_of
from tests.support.owner import OWNER, OWNER_NAME, READABLE, THIRD, as_account, give, tree_of_owner
from tests.support.tree import SampleTree
from tests.unit.config.test_loader import of_another

__all__ = ["of_another", "public_directory"]

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
    assert done.code == 0  # that nothing runs the jobs here is a warning
    assert {frozenset(event) for event in done.of_type("doctor_check")} == {frozenset(COMMON | {"check", "status", "detail", "fix"})}
    checks = {str(event["check"]): event for event in done.of_type("doctor_check")}
    expected = {
        "configuration",
        "root",
        "account",
        "arawn",
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
    assert checks["timers"]["status"] == "warn"
    assert "schedule install" in str(checks["timers"]["fix"])
    assert all((event["fix"] is None) is (event["status"] == "ok") for event in checks.values())
    assert set(done.last) == COMMON | {"ok", "warn", "fail"}
    assert done.last["fail"] == 0
    sources = {event["key"]: (event["value"], event["source"]) for event in done.of_type("effective_setting")}
    assert sources["paths.cleanup.scratch_cleanup_days"] == (9, str(config))
    assert sources["maintenance.root"] == (str(tree.root), "$ARAWN_BASE_PATH")
    assert sources["maintenance.nice"] == (10, "default")


def test_a_wrong_configuration_is_the_one_finding(run: Callable[..., Run], tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.schedule]\ndisk_check = 'often'\n")
    done = run("doctor", "--config", config, "--format", "table")
    assert done.code == 1
    assert done.stdout.startswith("1 problem, 0 ok\nfail  configuration:")
    assert "maintenance.schedule.disk_check: found 'often'; allowed: a duration such as 5m or 1h30m, or one of minutely," in done.stdout
    assert "\n      # fix the file" in done.stdout
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


@needs_user_namespaces
def test_hidden_processes_warn(run: Callable[..., Run], tree: SampleTree) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        done = run("doctor", "--base-path", tree.root, prefix=("unshare", "--user", "--map-root-user"))
        process.kill()
    found = next(event for event in done.of_type("doctor_check") if event["check"] == "processes")
    assert found["status"] == "warn"
    assert "the kernel hides the open files of " in str(found["detail"])
    assert "scratch-cleanup --dry-run" in str(found["fix"])


def test_what_cannot_be_read_fails(tree: SampleTree) -> None:
    tree.database.write_bytes(b"no database, and long enough to be looked at as one" * 10)
    tree.messages.mkdir()
    found = findings(tree)
    assert found["database"].status is Status.FAIL
    assert found["messages"].status is Status.FAIL


def test_unreadable_messages_of_any_workstream_fail(tree: SampleTree) -> None:
    assert findings(tree)["messages"].detail.endswith("has none yet")
    tree.workstream("blog", "My blog", {})
    tree.turn(None, tree.ago(1), workstream="blog")
    assert findings(tree)["messages"].detail == "the messages of all workstreams are readable"
    (tree.workstreams / "blog" / "messages.jsonl").unlink()
    (tree.workstreams / "blog" / "messages.jsonl.1").touch()
    found = findings(tree)["messages"]
    assert (found.status, found.fix) == (Status.FAIL, f"namei -l {tree.workstreams}/blog/messages.jsonl")
    assert "every session is kept" in found.detail


def test_another_run_and_an_overdue_trash_warn(tree: SampleTree) -> None:
    trash = tree.workstreams / "scratch" / ".trash"
    trash.mkdir()
    (trash / "old.20200101T000000Z.01234567").mkdir()
    state = config_of(tree).state_directory
    state.mkdir(mode=0o700, parents=True)
    holder = os.open(lock_file(state, "scratch-cleanup", tree.root), os.O_RDONLY | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    found = findings(tree)
    os.close(holder)
    assert found["lock"].status is Status.WARN
    assert found["trash"].status is Status.WARN
    assert "1 removed session," in found["trash"].detail
    assert findings(tree, now=1577836800 * 10**9 + DAY // 2)["trash"].status is Status.OK


def test_queued_refused_and_parked_events_are_told(tmp_path: Path, tree: SampleTree) -> None:
    def outbox_findings(directory: Path) -> list[Finding]:
        return list(environment.outbox_findings(directory, own_account(os.geteuid()), shell_of(tree), "arawn-cli disk-check"))

    def outbox_finding(directory: Path) -> Finding:
        (finding,) = outbox_findings(directory)
        return finding

    assert outbox_finding(tmp_path).status is Status.OK
    with closing(State(tmp_path, time.time_ns)) as state:
        Outbox(state, 10).append(OutgoingEvent("a", "t", "t", "s", b""))
    assert "1 event queued" in outbox_finding(tmp_path).detail
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE outbox SET answer = '413'")
    assert outbox_finding(tmp_path).detail == "1 event queued; 1 of them refused; the last event was refused with 413"
    with closing(State(tmp_path, time.time_ns)) as state:
        Outbox(state, 10).append(OutgoingEvent("b", "t", "t", "s", b""))
    assert outbox_finding(tmp_path).detail == "2 events queued; 1 of them refused"
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE outbox SET drop_priority = -1, refusals = 100, refused_at = 0 WHERE event_id = 'a'")
    told, rest = outbox_findings(tmp_path)
    assert told.detail == "event a (t) is not sent any more: refused 100 times since 1970-01-01 00:00 UTC, at last with 413"
    assert told.fix is not None
    assert "disk-check --parked retry" in told.fix
    assert f"STATE_DIRECTORY={tmp_path}" in told.fix
    assert rest.detail == "1 event queued"
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("UPDATE outbox SET body = x'00'")
    assert "an event in the outbox is damaged): the next run begins a new one" in outbox_finding(tmp_path).detail
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection, connection:
        connection.execute("DROP TABLE runs")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer = outbox_finding(tmp_path)
    assert newer.status is Status.FAIL
    assert "the jobs cannot use it: the state file is of a newer version" in newer.detail
    (tmp_path / "state.db").write_bytes(b"x" * 4096)
    assert outbox_finding(tmp_path).status is Status.WARN


def test_a_relay_that_never_completes_its_answer_does_not_hold_up_doctor(tree: SampleTree) -> None:
    with answering(*[b"1"] * 100, pause=0.2) as port:
        maintenance = with_value(config_of(tree).maintenance, "relay", Relay(timeout_secs=0.5, deadline_secs=1.0))
        target = RelayTarget(relay_url.parse(f"http://127.0.0.1:{port}/"), None, None)
        config = replace(config_of(tree), relay=target, maintenance=maintenance)
        (finding,) = environment.relay_findings(config, shell_of(tree))
    assert finding.status is Status.FAIL
    assert "no answer within 1.0 s" in finding.detail


def state_finding(directory: Path, account: Account, tree: SampleTree, *, created_by: str | None = status.FIRST_RUN) -> Finding:
    found = state_findings(directory, account, shell_of(tree), created_by=created_by)
    return next(finding for finding in found if finding.check == "state")


def apply_fix(finding: Finding) -> None:
    """Runs the fix of a finding, as somebody pastes it into a shell."""
    assert finding.fix is not None
    subprocess.run(["sh", "-c", finding.fix], check=True, capture_output=True)


def test_state_that_is_not_there_yet_is_no_fault(tmp_path: Path, tree: SampleTree) -> None:
    for created_by in ("systemd", status.FIRST_RUN):
        found = state_finding(tmp_path / "a" / "b", own_account(os.getuid()), tree, created_by=created_by)
        assert found.status is Status.OK
        assert not (tmp_path / "a").exists()


def test_state_that_the_sandbox_of_a_job_cannot_create_is_a_fault_until_it_is_there(tmp_path: Path, tree: SampleTree) -> None:
    directory, account = tmp_path / "a" / "the state", own_account(os.getuid())
    found = state_finding(directory, account, tree, created_by=None)
    assert (found.status, "systemd lets no job create it" in found.detail) == (Status.FAIL, True)
    apply_fix(found)
    assert state_finding(directory, account, tree, created_by=None).status is Status.OK


@pytest.mark.parametrize("plant", [os.mkfifo, Path.touch, lambda path: path.symlink_to("nowhere")])
@pytest.mark.parametrize("below", ["", "state", "a/state"])
def test_state_in_the_place_of_something_else_is_a_fault(
    tmp_path: Path, tree: SampleTree, below: str, plant: Callable[[Path], None]
) -> None:
    plant(tmp_path / "place")
    for created_by in ("systemd", status.FIRST_RUN):
        found = state_finding(tmp_path / "place" / below, own_account(os.getuid()), tree, created_by=created_by)
        assert (found.status, found.detail) == (Status.FAIL, f"{tmp_path / 'place'} is not a directory: the jobs cannot save state")


@needs_root
def test_state_is_checked_for_the_account_of_the_jobs_and_its_fix_works(public_directory: Path, tree: SampleTree) -> None:
    directory = public_directory / "a state"
    missing = state_finding(directory, NOBODY, tree)
    assert (missing.status, "nobody cannot write to" in missing.detail) == (Status.FAIL, True)
    apply_fix(missing)
    assert state_finding(directory, NOBODY, tree).status is Status.OK
    (directory / "state.db").touch()  # as a run by root leaves it
    for fault in (None, 0o777):
        if fault:
            directory.chmod(fault)
        found = state_finding(directory, NOBODY, tree)
        assert found.status is Status.FAIL
        apply_fix(found)
        assert state_finding(directory, NOBODY, tree).status is Status.OK


@needs_root
def test_systemd_changes_the_owner_of_a_directory_that_it_creates(public_directory: Path, tree: SampleTree) -> None:
    directory = public_directory / "state"
    directory.mkdir()
    os.chown(directory, OWNER, -1)
    assert state_finding(directory, NOBODY, tree, created_by="systemd").status is Status.OK
    assert state_finding(directory, NOBODY, tree).status is Status.FAIL


@needs_root
def test_no_fix_gives_away_a_directory_that_may_be_of_others(public_directory: Path, tree: SampleTree) -> None:
    others, own = public_directory / "others", public_directory / "own"
    for directory in (others, own):
        directory.mkdir()
    (others / "file").touch()
    ours = shell_of(tree)
    assert ours.config.file is not None
    os.chown(ours.config.file, 5, 5)
    theirs = ours
    config = public_directory / "config.toml"
    config.touch()
    ours = replace(ours, config=replace(ours.config, file=config))
    link = public_directory / "link"
    link.symlink_to("/etc")
    os.chown(link, 5, 5, follow_symlinks=False)

    def fixes(directory: Path, shell: Shell) -> Iterator[str]:
        yield from (
            found.fix or "" for found in state_findings(directory, NOBODY, shell, created_by=status.FIRST_RUN) if found.check == "state"
        )
        yield metrics_finding(directory, NOBODY, shell).fix or ""

    for directory, shell in ((Path("/etc"), ours), (Path("/var/lib"), ours), (link / "x", ours), (own, theirs), (own / "x", theirs)):
        assert [fix[:1] for fix in fixes(directory, shell)] == ["#", "#"], directory
    assert [fix.split()[0] for fix in fixes(own, ours)] == ["chown", "setfacl"]
    assert [fix.split()[0] for fix in fixes(own / "x", ours)] == ["install", "install"]
    assert [fix.split()[0] for fix in fixes(others, ours)] == ["#", "setfacl"]


@pytest.mark.parametrize("target", ["/etc", "/proc/1/fdinfo/none", "nowhere\nrm -rf x", "messages.jsonl"])
def test_a_link_in_the_tree_neither_ends_doctor_nor_writes_a_command(tree: SampleTree, tmp_path: Path, target: str) -> None:
    tree.workstream("blog", "My blog", {})
    places = (tree.workstreams / "blog" / "messages.jsonl", tree.workstreams / "evil", tree.workstreams / "scratch")
    for place in places:
        if place.exists():
            place.rename(tmp_path / "before")
        place.symlink_to(target)
        found = findings(tree)
        assert any(finding.status is Status.FAIL for finding in found.values()) or not place.exists()
        for finding in found.values():
            assert (finding.fix or "x").isprintable()
            assert "\n" not in finding.detail
        place.unlink()


def test_a_fix_with_a_character_that_does_not_print_is_a_comment() -> None:
    assert fail("x", "y", "ls 'a\x1b[31m\nb'").fix == r"# ls 'a\x1b[31m\x0ab'"
    assert fail("x", "y", "ls 'a\\ ä'").fix == "ls 'a\\ ä'"


def test_a_configured_dry_run_and_a_missing_root_hide_no_other_finding(run: Callable[..., Run], tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance]\nroot = '/nowhere'\n[paths.cleanup]\ndry_run = true\n")
    done = run("doctor", "--config", config)
    checks = {str(event["check"]): event["status"] for event in done.of_type("doctor_check")}
    assert done.code == 1
    assert (checks["configuration"], checks["root"]) == ("warn", "fail")
    assert {"state", "outbox", "relay", "clock", "timers"} <= checks.keys()


@needs_root
def test_an_unread_configuration_of_the_owner_is_a_finding_whose_fix_names_it(
    of_another: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(of_another.parents[3]))
    # The account exists in this process alone, so neither its timers nor those of this machine can
    # be examined.
    monkeypatch.setattr("arawn_cli.cli.doctor.installed_schedules", lambda *_: [])
    root = of_another.parents[2] / ".arawn"
    output = Output(format=Format.JSON)
    run_doctor(Flags(base_path=str(root)), output)
    warned = [check for check in map(json.loads, capfd.readouterr().out.splitlines()) if f"{of_another} of" in check.get("detail", "")]
    assert [check["check"] for check in warned] == ["configuration of the owner"]
    words = shlex.split(warned[0]["fix"], comments=True)
    assert words[-5:] == ["doctor", "--config", str(of_another), "--base-path", str(root)]
    run_doctor(Flags(config=of_another, base_path=str(root)), output)
    assert "configuration of the owner" not in capfd.readouterr().out


def test_each_value_names_its_source(tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    relay = '[maintenance.relay]\nurl = "https://me:secret@relay.example/pub?key=secret"\norigin = "https://me:secret@here"\n'
    file.write_text(f'[paths]\nbase_path = "{tree.root}"\n[maintenance.cleanup]\nprotect = ["keep-*"]\n{relay}')
    environment = {"STATE_DIRECTORY": "/var/lib/x"}
    flags = Flags(config=file, older_than_days=3, dry_run=True)
    found = {setting.key: setting for setting in settings_of(load(flags, environment), environment)}
    assert found["maintenance.root"].source == str(file)
    assert found["paths.cleanup.scratch_cleanup_days"] == type(found["maintenance.root"])(
        "paths.cleanup.scratch_cleanup_days", 3, "--older-than-days"
    )
    assert found["paths.cleanup.dry_run"].source == "--dry-run"
    assert (found["maintenance.state_dir"].value, found["maintenance.state_dir"].source) == ("/var/lib/x", "$STATE_DIRECTORY")
    assert found["maintenance.cleanup.protect"].value == ["keep-*"]
    assert "secret" not in str([setting.value for setting in found.values()])
    assert found["maintenance.threads"].source == "default"


@pytest.mark.parametrize(
    "text",
    [
        "[paths.cleanup]\nscratch_cleanup_days = 0\n",
        "[maintenance]\nroot = '/nowhere'\n",
        "[paths.cleanup]\ndry_run = true\n[maintenance.relay]\nurl = 'http://127.0.0.1:1/x'\n",
    ],
    ids=["wrong file", "no root", "dry run, no relay"],
)
def test_every_fix_can_be_pasted_into_a_shell(run: Callable[..., Run], tree: SampleTree, tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text if "root" in text else f"{text}[paths]\nbase_path = '{tree.root}'\n")
    fixes = [str(event["fix"]) for event in run("doctor", "--config", config).of_type("doctor_check") if event["fix"]]
    assert fixes
    for fix in fixes:
        words = shlex.split(fix, comments=True)
        assert subprocess.run(["sh", "-n", "-c", fix], check=False).returncode == 0, fix
        assert words == [] or shutil.which(words[0]) or words[0] in ("sudo", "arawn-cli"), fix
        assert not any(re.fullmatch("[A-Z]+,?", word) for word in words), fix


@needs_namespaces
def test_a_root_that_only_its_owner_can_open_is_a_failure_and_root_can_check_it(run: Callable[..., Run]) -> None:
    with tree_of_owner() as tree:
        give(tree.root)
        tree.root.chmod(0o700)
        config = tree.root.parent / "config.toml"
        config.write_text(f'[maintenance]\nroot = "{tree.root}"\n')
        done = run("doctor", "--config", config, prefix=as_account(THIRD))
    (failure,) = (event for event in done.of_type("doctor_check") if event["check"] == "root")
    assert (done.code, failure["detail"]) == (1, f"cannot open the root {tree.root}: Permission denied")
    assert str(failure["fix"]).startswith("sudo ")


def with_problems(tree: SampleTree) -> Path:
    """A configuration of a tree in which nearly every check of doctor finds something."""
    tree.workstream("shared", "Shared", {"work/f": 1})
    (tree.workstreams / "linked").symlink_to(tree.workstreams / "shared")
    (tree.workstreams / "shared" / "messages.jsonl").symlink_to("elsewhere")
    trash = tree.workstreams / "scratch" / ".trash"
    (trash / "old.20200101T000000Z.01234567").mkdir(parents=True)
    tree.workstreams.chmod(0o775)
    tree.database.write_bytes(b"no database" * 100)
    directory = tree.root.parent
    (directory / "state").mkdir(mode=0o770, exist_ok=True)
    (directory / "state" / "state.db").write_bytes(b"no database" * 100)
    config = directory / "config.toml"
    config.write_text(
        f"[paths.cleanup]\ndry_run = true\n[workstream]\ndata_dir = '/nowhere'\n[maintenance]\nroot = '{tree.root}'\nstate_dir = 'state'\n"
        "[maintenance.cleanup]\ntrash_days = 3\n[maintenance.relay]\nurl = 'http://127.0.0.1:1/x'\n"
        f"[maintenance.ping]\ndisk_check = 'https://localhost/x/start'\n[maintenance.metrics]\ntextfile_dir = '{directory}/metrics'\n"
    )
    return config


def fixes_of(done: Run) -> dict[str, str]:
    return {f"{event['check']}: {event['detail']}": str(event["fix"]) for event in done.of_type("doctor_check") if event["fix"]}


@needs_root
@pytest.mark.parametrize("is_of_root", [True, False])
def test_after_sudo_every_fix_begins_with_sudo_and_in_a_shell_of_root_none_needs_it(run: Callable[..., Run], is_of_root: bool) -> None:
    with tree_of_owner() as tree:
        config = with_problems(tree)
        give(tree.root, 0 if is_of_root else OWNER)
        give(tree.root.parent / "state", 0 if is_of_root else OWNER)
        done = [
            run("doctor", "--config", config, prefix=READABLE, HOME=str(config.parent), **variables)
            for variables in ({"SUDO_UID": "1"}, {})
        ]
    by_sudo, by_root = map(fixes_of, done)
    assert len(by_sudo) >= 8, done
    for finding, fix in by_sudo.items():
        assert fix.startswith(("#", "sudo ")), finding
        commands = [part for part in fix.partition("  #")[0].split(" && ") if not part.startswith("#")]
        assert all(command.startswith("sudo ") for command in commands), finding
    assert by_sudo.keys() == by_root.keys()
    assert [fix for fix in by_root.values() if fix.startswith("sudo ") and "mount --bind" not in fix] == []


@pytest.mark.parametrize(
    ("user", "sudo_user", "by_root", "itself", "as_root"),
    [
        (0, None, False, "crontab -e", "date"),
        (0, 1000, False, "sudo crontab -e", "sudo date"),
        (OWNER, None, True, f"sudo -u {OWNER_NAME} crontab -e", "date"),
        (OWNER, 1000, True, f"sudo -u {OWNER_NAME} crontab -e", "sudo date"),
        (OWNER, None, False, "crontab -e", "sudo date"),
    ],
)
def test_what_an_account_runs_itself_is_not_run_by_root(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, user: int, sudo_user: int | None, by_root: bool, itself: str, as_root: str
) -> None:
    shell = replace(shell_of(tree), flags=Flags(base_path=str(tree.root), sudo=() if sudo_user is None else ("sudo",)))
    for name in ("getuid", "geteuid"):
        monkeypatch.setattr(os, name, lambda: user)
    monkeypatch.setattr(settings, "sees_all_accounts", lambda: by_root or user == 0)
    assert (shell.as_itself("crontab -e"), shell.as_root("date")) == (itself, as_root)
    command = shell.schedule("install", Scope.USER, "--user")
    assert command.startswith(itself.removesuffix("crontab -e"))
    assert " schedule install --user " in command
    assert command.endswith(f" --base-path {tree.root}")


@pytest.mark.parametrize(
    ("user", "variables", "words"),
    [
        (0, {}, ()),
        (0, {"SUDO_UID": "1000"}, ("sudo",)),
        (0, {"SUDO_UID": "0"}, ()),
        (OWNER, {"SUDO_UID": "1000", "SUDO_COMMAND": "/opt/arawn-cli doctor"}, ("sudo", "-u", OWNER_NAME)),
        (OWNER, {"SUDO_UID": "1000", "SUDO_COMMAND": "/bin/bash"}, ()),
        (OWNER, {}, ()),
    ],
)
def test_a_person_needs_the_sudo_again_that_started_the_program(
    monkeypatch: pytest.MonkeyPatch, user: int, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: user)
    assert sudo_words(variables) == words
    flags = Flags(config=Path("/etc/my arawn.toml"), sudo=words)
    assert flags.command("doctor") == " ".join([*words, "arawn-cli doctor --config '/etc/my arawn.toml'"])
    assert flags.typed("# wait") == "# wait"


# Timers, cron, and the account of the jobs


@pytest.mark.parametrize("is_root", [True, False])
def test_no_timers_are_a_warning_with_the_one_command_that_installs_them(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, is_root: bool
) -> None:
    monkeypatch.setattr(timers, "sees_all_accounts", lambda: is_root)
    monkeypatch.setattr(timers, "running_cron", lambda: Daemon.FULL)
    (finding,) = timer_findings([], 0, shell_of(tree))
    assert finding.status is Status.WARN
    assert finding.fix is not None
    assert ("schedule install --user" in finding.fix) is not is_root
    assert finding.fix.endswith(f" --base-path {tree.root}")
    assert "#" not in finding.fix


def test_without_systemd_and_cron_the_command_starts_or_installs_cron_first(tree: SampleTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "running_cron", lambda: None)
    monkeypatch.setattr(timers, "systemd_runs", lambda: False)
    (finding,) = timer_findings([], 0, shell_of(tree))
    assert finding.fix is not None
    first, _, second = finding.fix.partition(" && ")
    assert first == shell_of(tree).as_root(start_command(with_systemd=False))
    assert "schedule install" in second


@pytest.mark.parametrize("with_systemd", [False, True])
def test_the_clock_is_synchronised_by_a_program_that_the_machine_can_run(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_systemd: bool
) -> None:
    (tmp_path / "timedatectl").write_text("#!/bin/sh\necho no\n")
    (tmp_path / "timedatectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment, "is_synchronised", lambda: False)
    monkeypatch.setattr(environment, "systemd_runs", lambda: with_systemd)
    fix = str(environment.clock_finding(shell_of(tree)).fix)
    assert ("systemd" in fix, "chrony" in fix) == (with_systemd, not with_systemd)


@pytest.fixture
def cron(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a cron runs: what one of this machine does is not the test's."""
    runs = [True]
    monkeypatch.setattr(status, "running_cron", lambda: Daemon.FULL if runs[0] else None)
    return runs


def cron_findings(
    tree: SampleTree,
    directory: Path,
    now: int,
    account: Account | None = None,
    command: tuple[str, ...] = (sys.executable,),
    reads: tuple[Path, ...] = (),
) -> dict[str, Finding]:
    """What doctor says of lines for cron in a directory of the test's own."""
    own = replace(SYSTEM, account=account or own_account(os.getuid()), command=command, root=tree.root, reads=reads, logger=None)
    settings = replace(own, state=directory / "state")
    place = Place(Scheduler.CRON, Scope.SYSTEM, FileStore(directory, ("arawn-cli",)), None)
    (directory / "arawn-cli").write_text(with_header(cron_file(settings)))
    found = timer_findings([Schedule(place, settings, directory / "state")], now, shell_of(tree))
    return {finding.check: finding for finding in found}


def record_run(directory: Path, root: Path, last_run: int, last_success: int | None) -> None:
    state = State(directory / "state", time.time_ns)
    record(state, JobName.SCRATCH_CLEANUP, root, LastRun(last_run, last_success, 0, 0))
    state.close()


@pytest.mark.usefixtures("cron")
def test_a_job_of_cron_without_success_fails_after_two_periods(tree: SampleTree, tmp_path: Path) -> None:
    now = time.time_ns()
    assert cron_findings(tree, tmp_path, now)["scratch-cleanup last success"].status is Status.WARN
    late = cron_findings(tree, tmp_path, now + 3 * DAY)["scratch-cleanup last success"]
    assert (late.status, "none since the timer was installed" in late.detail) == (Status.FAIL, True)
    assert late.fix is not None
    assert "scratch-cleanup --base-path" in late.fix


def test_without_a_running_cron_its_lines_fail(cron: list[bool], tree: SampleTree, tmp_path: Path) -> None:
    assert cron_findings(tree, tmp_path, 0)["disk-check timer"].status is Status.OK
    cron[0] = False
    found = cron_findings(tree, tmp_path, 0)
    assert {found[name].status for name in ("cron", "disk-check timer", "scratch-cleanup timer")} == {Status.FAIL}
    assert found["disk-check timer"].detail == f"cron is not running, so no job runs: run {found['cron'].fix}"


def test_an_unreadable_record_is_not_reported_as_never_run(tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_bytes(b"x" * 4096)
    found = cron_findings(tree, tmp_path, time.time_ns() + 3 * DAY)["disk-check last success"]
    assert (found.status, found.detail.startswith("unknown: ")) == (Status.WARN, True)


@pytest.mark.usefixtures("cron")
@pytest.mark.parametrize(
    ("run_ago", "success_ago", "check", "words"),
    [
        (0, 3 * DAY, "scratch-cleanup timer", "its last run failed"),
        (3 * DAY, 3 * DAY, "scratch-cleanup last success", "overdue"),
    ],
)
def test_runs_of_cron_are_judged_by_their_records(
    run_ago: int, success_ago: int, check: str, words: str, tree: SampleTree, tmp_path: Path
) -> None:
    now = time.time_ns()
    record_run(tmp_path, tree.root, now - run_ago, now - success_ago)
    found = cron_findings(tree, tmp_path, now)[check]
    assert (found.status, words in found.detail) == (Status.FAIL, True), found
    record_run(tmp_path, tree.root, now, now)
    assert cron_findings(tree, tmp_path, now)[check].status is Status.OK


@pytest.mark.usefixtures("cron")
def test_a_run_that_is_recorded_for_the_future_is_a_warning(tree: SampleTree, tmp_path: Path) -> None:
    now = time.time_ns()
    record_run(tmp_path, tree.root, now + DAY, now)
    found = cron_findings(tree, tmp_path, now)["scratch-cleanup last success"]
    assert (found.status, "one cleanup may be refused" in found.detail, found.fix) == (Status.WARN, True, "date")


@needs_root
def test_what_the_account_of_the_jobs_cannot_access_fails_though_root_can(public_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = SampleTree(public_directory / "arawn", time.time_ns())
    program = public_directory / "program"
    shutil.copy("/bin/true", program)
    public_directory.chmod(0o700)
    found = cron_findings(tree, public_directory, 0, account=NOBODY, command=(str(program),))["account"]
    assert (found.status, found.detail) == (Status.FAIL, f"nobody cannot run {program}")
    public_directory.chmod(0o755)
    # Where Python and the package of the tests stand is not the test's: an account may be kept from
    # both.
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(arawn_cli, "__file__", str(program))
    folders = [tree.workstreams, tree.sessions.parent, tree.sessions]
    for number in range(len(folders)):
        found = cron_findings(tree, public_directory, 0, account=NOBODY, command=(str(program),), reads=(public_directory,))["account"]
        assert (found.status, found.detail) == (Status.FAIL, f"nobody cannot access {', '.join(map(str, folders[number:]))}")
        folders[number].chmod(0o777)
    found = cron_findings(tree, public_directory, 0, account=NOBODY, command=(str(program),), reads=(public_directory,))["account"]
    assert (found.status, found.detail) == (Status.OK, "the jobs run as nobody")
