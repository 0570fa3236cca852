"""Levels over several checks of a real tree: events and stored alerts."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.check_events import DiskPressure
from arawn_cli.diskcheck.history import read_transitions
from arawn_cli.diskcheck.job import megabytes, percent_of
from arawn_cli.diskcheck.levels import FIXED
from arawn_cli.events import Level, to_json
from arawn_cli.names import escape
from arawn_cli.state import State
from arawn_cli.timestamps import SECOND
from tests.conftest import COMMAND, WITHOUT_FILE_POWERS, Run, RunCommand, needs, needs_namespaces, needs_setpriv, needs_strace, snapshot
from tests.support.in_process import checked, cleaned
from tests.support.limits import MIB, configured, reported_levels
from tests.support.tree import SampleTree, write

__all__ = ["configured"]

HOUR = 3600 * SECOND


def transitions(tree: SampleTree) -> list[tuple[str, Level, Level]]:
    found = read_transitions(State(tree.root.parent / "state", lambda: 0), tree.root, 100)
    return [(change.scope, change.before, change.level) for change in reversed(found)]


def test_rise_and_recovery_send_one_event_each(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0, repeat_interval="1d", for_checks=2)
    big = tree.session("big", files={"f": 3 * MIB}, age_days=1) / "work" / "f"
    course = [reported_levels(checked(tree, config, now=tree.now + step * HOUR)[1]) for step in range(4)]
    assert course == [{}, {"session:big": Level.CRITICAL}, {}, {}]
    write(big, MIB + 1)
    assert reported_levels(checked(tree, config, now=tree.now + 5 * HOUR)[1]) == {"session:big": Level.WARNING}
    write(big, MIB * 96 // 100)
    assert reported_levels(checked(tree, config, now=tree.now + 6 * HOUR)[1]) == {}, "inside the recovery band"
    write(big, MIB // 2)
    assert reported_levels(checked(tree, config, now=tree.now + 7 * HOUR)[1]) == {"session:big": Level.OK}
    assert reported_levels(checked(tree, config, now=tree.now + 8 * HOUR)[1]) == {}
    assert transitions(tree) == [
        ("session:big", Level.OK, Level.CRITICAL),
        ("session:big", Level.CRITICAL, Level.WARNING),
        ("session:big", Level.WARNING, Level.OK),
    ]


def test_a_session_that_was_cleaned_recovers(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0)
    tree.session("big", files={"f": 3 * MIB}, age_days=30)
    assert reported_levels(checked(tree, config)[1]) == {"session:big": Level.CRITICAL}
    assert cleaned(tree, config=config)[0].sessions_cleaned == 1
    _, events = checked(tree, config)
    assert reported_levels(events) == {"session:big": Level.OK}
    (recovered,) = (event for event in events if isinstance(event, DiskPressure))
    assert (recovered.usage_bytes, recovered.limit_bytes, recovered.workstream_name) == (0, MIB, "Scratch session big")
    assert reported_levels(checked(tree, config)[1]) == {}


@needs_strace
def test_checks_at_once_on_a_filesystem_without_locks_tell_one_rise(
    run: RunCommand, tree: SampleTree, configured: Callable[..., Path], environment: dict[str, str]
) -> None:
    config = configured(session_mb=1.0, repeat_interval="1d")
    tree.session("big", files={"f": 3 * MIB}, age_days=1)
    without_lock = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK:when=1"]
    command = [*without_lock, str(COMMAND), "disk-check", "--base-path", str(tree.root), "--config", str(config), "--format", "json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert "".join(outputs).count('"type":"disk_pressure"') == 1


@needs_setpriv
def test_an_incomplete_check_neither_recovers_nor_is_ok(run: RunCommand, tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0)
    tree.session("big", files={"f": 3 * MIB}, age_days=1)

    def check() -> Run:
        return run("disk-check", "--base-path", tree.root, "--config", config, prefix=WITHOUT_FILE_POWERS)

    assert check().of_type("disk_pressure")[0]["level"] == "critical"
    (tree.sessions / "big" / "work").chmod(0)
    unreadable = check()
    assert unreadable.code == 1
    (event,) = unreadable.of_type("disk_pressure")
    assert (event["scope"], event["level"], event["complete"]) == ("session:big", "critical", False)
    (tree.sessions).chmod(0)
    hidden = check()
    assert (hidden.code, hidden.of_type("disk_pressure")) == (1, [])
    tree.sessions.chmod(0o755)
    (tree.sessions / "big" / "work").chmod(0o755)
    assert check().of_type("disk_pressure")[0]["level"] == "critical"


def test_a_dry_run_reports_the_same_as_a_real_one_and_writes_nothing(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0, for_checks=2)
    tree.session("big", files={"f": 3 * MIB}, age_days=1)
    checked(tree, config)
    before = snapshot(tree.root.parent / "state")
    for _ in range(2):
        assert reported_levels(checked(tree, config, dry_run=True)[1]) == {"session:big": Level.CRITICAL}
    assert snapshot(tree.root.parent / "state") == before
    assert reported_levels(checked(tree, config)[1]) == {"session:big": Level.CRITICAL}


@needs_namespaces
@needs(shutil.which("mkfs.ext4") is not None, "mkfs.ext4")
def test_the_filesystem_is_judged_as_an_ordinary_user_sees_it(run: RunCommand, tmp_path: Path, configured: Callable[..., Path]) -> None:
    """An ext4 with a fifth of its blocks kept for root: nearly full for everyone else, though a
    quarter of it is free."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    place = tmp_path / "mounted"
    place.mkdir()
    script = (
        f"mkfs.ext4 -q -m 20 {image} && mount -o loop {image} {place} && mkdir -p {place}/arawn/workstreams && chmod -R go-w {place} && "
        f'head -c 9M /dev/zero > {place}/fill && exec "$@"'
    )
    config = configured(filesystem_warning_percent=80, filesystem_critical_percent=99)
    done = run("disk-check", "--base-path", place / "arawn", "--config", config, prefix=("unshare", "-m", "sh", "-c", script, "sh"))
    assert done.code == 0, done.stderr
    (event,) = done.of_type("disk_pressure")
    filesystem = done.last["filesystem"]
    assert isinstance(filesystem, dict)
    usable = filesystem["used_bytes"] + filesystem["free_bytes"]
    assert filesystem["used_bytes"] / filesystem["total_bytes"] < 0.80 < filesystem["used_bytes"] / usable
    assert (event["scope"], event["level"], event["unit"]) == ("filesystem", "warning", "bytes")
    assert (event["usage_bytes"], event["limit_bytes"]) == (filesystem["used_bytes"], usable * 80 // 100)
    assert event["workstream_name"] == f"Filesystem {place}"


@needs_namespaces
def test_few_free_inodes_are_reported_in_inodes(run: RunCommand, tmp_path: Path, configured: Callable[..., Path]) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m,nr_inodes=20,mode=755 tmpfs {place} && mkdir -p {place}/arawn/workstreams && "
        f'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do : > {place}/$i; done && exec "$@"'
    )
    config = configured(inode_warning_percent=50, inode_critical_percent=100)
    done = run("disk-check", "--base-path", place / "arawn", "--config", config, prefix=("unshare", "-m", "sh", "-c", script, "sh"))
    (event,) = done.of_type("disk_pressure")
    assert (event["scope"], event["unit"], event["usage_bytes"], event["limit_bytes"]) == ("inodes", "inodes", 17, 10)


@needs_namespaces
def test_a_filesystem_below_a_name_that_does_not_print_is_asked_by_its_true_name(run: RunCommand, tree: SampleTree) -> None:
    place = tree.workstreams / "new\nline\\" / "sessions"
    place.mkdir(parents=True)
    script = f'mount -t tmpfs tmpfs {shlex.quote(str(place))} && exec "$@"'
    done = run("disk-check", "--base-path", tree.root, prefix=("unshare", "-m", "sh", "-c", script, "sh"))
    check = json.loads(done.stdout.splitlines()[-1])
    assert (done.code, check["failures"]) == (0, []), done.stderr
    assert [mounted["mountpoint"] for mounted in check["mounted"]] == [escape(str(place))]


# Total, unused and usable blocks, then inodes.
@pytest.mark.parametrize(
    "figures", [(-1,) * 6, (0,) * 6, (100, 200, 200, 1000, 2**63, 2**63), (2**62, 0, 0, 5, -1, -1), (100, 70, 60, 1000, -1, -1)]
)
def test_no_level_and_no_number_comes_of_figures_without_sense(
    tree: SampleTree, monkeypatch: pytest.MonkeyPatch, figures: tuple[int, ...]
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, *figures, 0, 255)))
    result, events = checked(tree)
    assert reported_levels(events) == {}
    assert (result.summary.level, result.summary.complete) == (Level.OK, True)
    known = {verdict.usage.scope for verdict in result.verdicts} & {"filesystem", "inodes"}
    assert known == ({"filesystem"} if figures[:3] == (100, 70, 60) else set())
    numbers = [int(number) for event in events for number in re.findall(r"[:\[](-?\d+)[,}\]]", to_json(event))]
    assert all(0 <= number < 2**63 for number in numbers)


def test_a_filesystem_that_cannot_be_asked_is_reported_and_keeps_its_level(
    tree: SampleTree, configured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(filesystem_warning_percent=1, filesystem_critical_percent=100)
    half_full = os.statvfs_result((4096, 4096, 100, 50, 50, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: half_full)
    assert "filesystem" in reported_levels(checked(tree, config)[1])

    def fail(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "statvfs", fail)
    result, events = checked(tree, config)
    assert [(failure.operation, failure.path) for failure in result.measurements.failures] == [("measure", ".")]
    assert (reported_levels(events), result.summary.complete) == ({}, False)


def test_without_the_database_no_scope_is_judged_by_an_uncertain_limit(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(limits={"My blog": 1000})
    tree.workstream("blog", "My blog", {"work/f": 5000})
    assert reported_levels(checked(tree, config)[1]) == {"blog": Level.CRITICAL}
    content = tree.database.read_bytes()
    for damage in (lambda: tree.database.write_bytes(b"no database" * 100), tree.database.unlink):
        damage()
        result, events = checked(tree, config)
        assert reported_levels(events) == {}
        assert (result.summary.level, result.summary.complete) == (Level.UNKNOWN, False)
    tree.database.write_bytes(content)
    assert reported_levels(checked(tree, config)[1]) == {"blog": Level.CRITICAL}


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_workstream_with_the_name_of_a_fixed_scope_has_its_own_alerts(
    tree: SampleTree, configured: Callable[..., Path], name: str
) -> None:
    config = configured(limits={name: 1000}, repeat_interval="1d")
    tree.workstream(name, "A", {"work/f": 5000})
    assert reported_levels(checked(tree, config)[1]) == {f"workstream:{name}": Level.CRITICAL}
    assert reported_levels(checked(tree, config)[1]) == {}
    (tree.workstreams / name / "work" / "f").unlink()
    assert reported_levels(checked(tree, config)[1]) == {f"workstream:{name}": Level.OK}


def test_a_check_that_was_overtaken_by_a_later_one_changes_nothing(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0, repeat_interval="1d")
    tree.session("big", files={"f": 3 * MIB}, age_days=1)
    assert reported_levels(checked(tree, config, now=tree.now + 10 * SECOND)[1]) == {"session:big": Level.CRITICAL}
    slow, events = checked(tree, config, now=tree.now, ended=tree.now + 20 * SECOND)
    assert reported_levels(events) == {}
    assert slow.summary.level is Level.CRITICAL
    assert transitions(tree) == [("session:big", Level.OK, Level.CRITICAL)]


def test_a_time_of_last_run_in_the_future_stops_no_check(tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0)
    checked(tree, config, now=tree.now + 1000 * HOUR)
    tree.session("big", files={"f": 3 * MIB}, age_days=1)
    assert reported_levels(checked(tree, config)[1]) == {"session:big": Level.CRITICAL}


@needs_setpriv
def test_an_unreadable_directory_elsewhere_prevents_no_recovery(run: RunCommand, tree: SampleTree, configured: Callable[..., Path]) -> None:
    config = configured(session_mb=1.0)
    tree.workstream("closed", "Closed", {"work/f": 1})
    big = tree.session("big", files={"f": 3 * MIB}, age_days=1)
    (tree.workstreams / "closed" / "work").chmod(0)
    arguments = ("disk-check", "--base-path", tree.root, "--config", config)
    assert run(*arguments, prefix=WITHOUT_FILE_POWERS).of_type("disk_pressure")[0]["level"] == "critical"
    shutil.rmtree(big)
    done = run(*arguments, prefix=WITHOUT_FILE_POWERS)
    assert [(event["scope"], event["level"]) for event in done.of_type("disk_pressure")] == [("session:big", "ok")]
    assert done.code == 1


def test_a_run_without_the_usual_relay_changes_no_level(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    tree.workstream("blog", "My blog", {"work/f": 5000})
    config = tmp_path / "relay.toml"
    tables = {"state_dir": str(tmp_path / "state"), "relay": {"url": "http://127.0.0.1:1/", "deadline_secs": 0.2}}
    config.write_text(tomli_w.dumps({"maintenance": {**tables, "pressure": {"repeat_interval": "1d", "limits": {"blog": 1000}}}}))
    arguments = ("disk-check", "--base-path", tree.root, "--config", config)
    counts = [
        len(run(*arguments, *extra).of_type("disk_pressure")) for extra in ((), ("--no-relay",), ("--relay-url", "http://127.0.0.1:2/"))
    ]
    assert counts == [1, 0, 0]
    (tree.workstreams / "blog" / "work" / "f").unlink()
    counts = [len(run(*arguments, *extra).of_type("disk_pressure")) for extra in (("--no-relay",), (), ())]
    assert counts == [1, 1, 0]


@pytest.mark.parametrize("command", ["disk-check", "scratch-cleanup"])
def test_a_root_whose_path_is_no_utf_8_is_like_any_other(run: RunCommand, tmp_path: Path, command: str) -> None:
    odd = SampleTree(tmp_path / "caf\udce9", 0)
    for _ in range(2):
        done = run(command, "--base-path", odd.root, STATE_DIRECTORY=str(tmp_path / "state"))
        assert (done.code, done.stderr) == (0, "")


@needs_namespaces
def test_sizes_past_all_integers_are_cut_and_break_nothing(
    run: RunCommand, tree: SampleTree, tmp_path: Path, configured: Callable[..., Path]
) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    script = (
        f"mount -t tmpfs -o mode=755 tmpfs {place} && cp -a {tree.root} {place}/ && cd {place}/arawn/workstreams/scratch/sessions && "
        "for s in a b c; do mkdir $s && truncate -s 9223372036854771712 $s/f && touch -d @0 $s/f $s; done"
    )
    root = place / "arawn"
    arguments = ("--base-path", str(root), "--config", str(configured()), "--format", "json")
    both = f"{script} && {COMMAND} disk-check {shlex.join(arguments)} && {COMMAND} scratch-cleanup {shlex.join(arguments)}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", both],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(tmp_path / "state")},
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["sessions_cleaned"] == 3
    sizes = [event["usage_bytes"] for event in events if event["type"] == "disk_pressure"]
    assert max(sizes) == 2**63 - 1


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0.0"), (499, "0.0"), (1_000_000, "1.0"), (1_234_567, "1.235"), (2**63, "9223372036854.775")]
)
def test_millions_have_up_to_three_decimals(size: int, shown: str) -> None:
    assert json.dumps(megabytes(size)) == shown


@given(st.integers(0, 2**63), st.integers(1, 2**63))
def test_a_percentage_always_fits_in_a_byte(usage: int, limit: int) -> None:
    assert 0 <= percent_of(usage, limit) <= 255
