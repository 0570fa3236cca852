"""`report` through the installed command, on real trees."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
from pathlib import Path

import pytest

from arawn_cli.check_events import DiskPressure, WorkstreamUsage
from arawn_cli.errors import ConfigurationError
from arawn_cli.fs.files import AtomicFile
from arawn_cli.output import report_wording
from arawn_cli.output.format import day
from arawn_cli.timestamps import DAY
from tests.conftest import WITHOUT_FILE_POWERS, RunCommand, needs_setpriv, snapshot
from tests.support.in_process import checked
from tests.support.terminal import on_a_terminal
from tests.support.tree import SampleTree, write


def with_history(tree: SampleTree, config: Path) -> None:
    """A workstream that grew by ten kilobytes a day for ten days, as checks saw it."""
    tree.workstream("blog", "My blog", {"work/f": 0})
    for quarter in range(40, 0, -1):
        write(tree.workstreams / "blog" / "work" / "f", 400_000 - quarter * 2_500)
        checked(tree, config, now=tree.now - quarter * DAY // 4)
    write(tree.workstreams / "blog" / "work" / "f", 400_000)
    tree.session("old", files={"f": 3_000}, age_days=20)
    tree.session("young", files={"f": 9_000}, age_days=2)
    (tree.sessions / "young" / "work" / "f").touch()
    os.utime(tree.sessions / "young" / "work" / "f", ns=(tree.ago(2), tree.ago(2)))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "report.toml"
    path.write_text(f'[maintenance]\nstate_dir = "{tmp_path / "state"}"\n[maintenance.pressure.limits]\nblog = 393000\n')
    return path


def forecasts_told(tree: SampleTree, config: Path) -> list[str]:
    """The forecasts of the blog by a check then and a check now, between which the day may turn."""
    told = []
    for now in (tree.now, time.time_ns()):
        _, events = checked(tree, config, now=now, dry_run=True)
        (days,) = (event.forecast_days for event in events if isinstance(event, WorkstreamUsage) and event.workstream_id == "blog")
        assert days is not None
        told.append(f"critical in {days} d +{day(now + days * DAY)}")
    return told


def test_a_report_agrees_with_the_check_and_leaves_no_trace(run: RunCommand, tree: SampleTree, config: Path, tmp_path: Path) -> None:
    with_history(tree, config)
    before = snapshot(tmp_path)
    done = run("report", "--base-path", tree.root, "--config", config, COLUMNS="140")
    assert snapshot(tmp_path) == before
    assert done.code == 0, done.stderr
    assert "\x1b" not in done.stdout
    _, events = checked(tree, config, dry_run=True)
    (usage,) = (event for event in events if isinstance(event, WorkstreamUsage) and event.workstream_id == "blog")
    (pressure,) = (event for event in events if isinstance(event, DiskPressure))
    assert usage.forecast_days == pressure.forecast_days == 39, "386 kB to the critical limit at 10 kB a day"
    line = next(line for line in done.stdout.splitlines() if line.startswith("My blog"))
    assert any(re.search(told, line) for told in forecasts_told(tree, config)), line
    assert {"390.6 KiB", "102%", "+97.7 KiB"} <= set(re.split(r"  +", line)), line
    assert re.search(r"▁.*█", line)
    for piece in ("would remove 1 session: 2.9 KiB, in the trash until ", f"{day(tree.ago(-5))}     8.8 KiB  young"):
        assert piece in done.stdout
    assert re.search(r"ok to warning  My blog, 385\.7 KiB of 383\.8 KiB", done.stdout)


def test_names_that_are_no_utf_8_are_json_that_every_parser_reads(run: RunCommand, tmp_path: Path) -> None:
    odd = SampleTree(tmp_path / "caf\udce9", 0)
    odd.workstream("blog", "My blog", {"work/\udcff<b>": 1000})
    done = run("report", "--format", "json", "--base-path", odd.root)
    assert (done.code, done.last["path"]) == (0, str(odd.root).replace("\udce9", "\\xe9"))
    assert json.dumps(done.last, ensure_ascii=False).encode().count(b"\\\\xff<b>") == 1
    assert json.dumps(run("doctor", "--no-relay", "--base-path", odd.root).events, ensure_ascii=False).encode()


def test_alerts_of_the_period_are_told(run: RunCommand, tree: SampleTree, config: Path) -> None:
    tree.workstream("blog", "My blog", {"work/f": 500_000})
    checked(tree, config, now=tree.now - 3 * DAY)
    arguments = ("report", "--base-path", tree.root, "--config", config)
    assert re.search(r"ok to warning  My blog, 488\.3 KiB of 383\.8 KiB", run(*arguments, COLUMNS="120").stdout)
    assert "No alerts are recorded in this period" in run(*arguments, "--days", "2").stdout


def test_a_terminal_gets_colour(environment: dict[str, str], tree: SampleTree) -> None:
    tree.workstream("blog", "\x1b[2Jt[red]x", {"work/f": 10})
    code, drawn = on_a_terminal(environment, "report", "--base-path", tree.root)
    assert code == 0
    assert "\\x1b[2Jt[red]x" in drawn
    assert "\x1b[2J" not in drawn
    assert "\x1b[32m" in drawn


@pytest.mark.parametrize("extra", [(), ("--html", "-")])
def test_an_empty_tree_without_history_is_reported(run: RunCommand, tree: SampleTree, extra: tuple[str, ...]) -> None:
    done = run("report", "--base-path", tree.root, *extra)
    assert done.code == 0, done.stderr
    assert report_wording.NO_HISTORY in done.stdout
    assert "no session is due" in done.stdout
    assert not done.stderr


def test_the_page_replaces_a_file_whole(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    file = tmp_path / "kept" / "real.html"
    file.write_text("before")
    done = run("report", "--base-path", tree.root, "--html", file)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert file.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(file.parent) == ["real.html"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nowhere/r.html", "No such file or directory"),
        ("folder", "Is a directory"),
        ("loop", "it is a link to {loop}, and links are not followed: name the file itself, or - for standard output"),
        ("file/r", "Not a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_measuring(
    run: RunCommand, tree: SampleTree, tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    shutil.rmtree(tree.workstreams)
    done = run("report", "--base-path", tree.root, "--html", tmp_path / target)
    assert (done.code, done.stdout) == (78, "")
    assert done.stderr == f"ERROR: cannot write the report {tmp_path / target}: {reason.format(loop=tmp_path / 'loop')}\n"


def test_a_full_disk_keeps_the_page_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page").mkdir()
    target = tmp_path / "page" / "r.html"
    target.write_text("before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        AtomicFile(target, "the report").write("after")
    assert (target.read_text(), os.listdir(target.parent)) == ("before", ["r.html"])


def test_standard_output_that_takes_no_more_is_69(run: RunCommand, tree: SampleTree) -> None:
    for extra in ((), ("--html", "-")):
        done = run("report", "--base-path", tree.root, *extra, prefix=("bash", "-c", 'exec "$0" "$@" >/dev/full'))
        assert (done.code, done.stderr) == (69, "ERROR: cannot write to standard output: No space left on device\n")


@needs_setpriv
def test_what_cannot_be_read_is_told_with_exit_1(run: RunCommand, tree: SampleTree) -> None:
    hidden = tree.workstream("blog", "My blog", {"work/f": 10}) / "work"
    hidden.chmod(0)
    os.chown(hidden, 12345, 12345)
    done = run("report", "--base-path", tree.root, prefix=WITHOUT_FILE_POWERS)
    assert done.code == 1
    assert "Incomplete: 1 part could not be read" in done.stdout
    assert "at least" in done.stdout


def test_a_limit_that_nobody_knows_is_told_so_with_exit_1(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "titled.toml").write_text("[maintenance.pressure.limits]\n'My blog' = 5\n")
    tree.workstream("blog", "My blog", {"work/f": 10})
    tree.workstream("total", "Total", {"work/f": 20})
    for path in tree.root.glob("workstreams.db*"):
        path.write_text("no database" * 100)
    for form in ((), ("--html", "-")):
        done = run("report", "--base-path", tree.root, "--config", tmp_path / "titled.toml", *form, COLUMNS="140")
        assert done.code == 1, done.stderr
        assert done.stdout.count("limit unknown") >= 2


def test_a_state_that_cannot_be_read_is_told_with_exit_1(run: RunCommand, tree: SampleTree, config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.db").write_text("no database" * 100)
    before = snapshot(tmp_path / "state")
    done = run("report", "--base-path", tree.root, "--config", config)
    assert done.code == 1
    assert "earlier usage, alerts and removals are unknown" in done.stdout
    assert snapshot(tmp_path / "state") == before


@pytest.mark.parametrize("days", ["0", "91", "x"])
def test_days_are_from_1_to_90(run: RunCommand, tree: SampleTree, days: str) -> None:
    assert run("report", "--base-path", tree.root, "--days", days).code == 2


def test_a_report_without_a_readable_database_shows_what_is_known(run: RunCommand, tree: SampleTree, config: Path) -> None:
    tree.workstream("blog", "My blog", {"work/f": 500_000})
    tree.workstream("total", "Named like a scope", {"work/f": 1000})
    config.write_text(config.read_text().replace("blog = 393000", "'My blog' = 393000"))
    tree.database.write_bytes(b"no database" * 100)
    done = run("report", "--base-path", tree.root, "--config", config)
    assert done.code == 1
    assert {"blog", "total"} <= set(done.stdout.split())
    assert "file is not a database" in done.stdout
