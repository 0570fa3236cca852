"""Several roots in one configuration: each with its own rules and its own evidence, and none with
another's."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli.events import JobName
from arawn_cli.fs.permissions import account_name
from arawn_cli.output.prometheus import file_name
from tests.conftest import RunCommand, snapshot
from tests.support.tree import SampleTree
from tests.support.two_roots import config, lab
from tests.unit.output.test_prometheus import needs_node_exporter, needs_promtool, node_exporter, samples

__all__ = ["config", "lab"]


def test_each_root_is_cleaned_by_its_own_days_and_no_other_is_touched(
    run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path]
) -> None:
    for each in (tree, lab):
        for days in (5, 20, 40):
            each.session(f"s{days}", files={"f": 100}, age_days=days)
    path = config(scratch_cleanup_days=30)
    before = snapshot(tree.root)
    done = run("scratch-cleanup", "--config", path, "--root", "lab", ARAWN_BASE_PATH=str(tree.root))
    assert (done.code, done.removed(), done.sessions("kept")) == (0, {"s40"}, {"s5", "s20"})
    assert snapshot(tree.root) == before
    assert {event["root"] for event in done.events} == {"lab"}
    done = run("scratch-cleanup", "--config", path)
    assert (done.code, done.removed(), done.sessions("kept")) == (0, {"s20", "s40"}, {"s5"})
    assert {event["root"] for event in done.events} == {None}
    assert sorted(os.listdir(lab.sessions)) == ["s20", "s5"]


def test_a_session_is_judged_by_the_database_of_its_own_root(
    run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path], tmp_path: Path
) -> None:
    """The same id in both roots: a row in one database says nothing of the other's session."""
    lab.session("shared", files={"f": 1}, age_days=40)
    lab.session_row("shared", lab.ago(1))
    tree.session("shared", files={"f": 1}, age_days=40)
    tree.session_row("shared", tree.ago(40))
    path = config()
    path.write_text(path.read_text() + f'\n[workstream]\ndatabase = "{tree.database}"\n')
    assert run("scratch-cleanup", "--config", path, "--root", "lab").reasons() == {"shared": "active"}
    lab.database.rename(tmp_path / "elsewhere.db")
    path = config(database=str(tmp_path / "elsewhere.db"))
    assert run("scratch-cleanup", "--config", path, "--root", "lab").reasons() == {"shared": "active"}
    assert run("scratch-cleanup", "--config", path).reasons() == {"shared": "expired"}


def test_alerts_of_two_roots_have_ids_and_names_of_their_own(
    run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path]
) -> None:
    """Arawn's client replaces an alert by another one with the same `workstream_id`."""
    for each in (tree, lab):
        each.workstream("blog", "My blog", {"work/f": 3_000_000})
        each.session("7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11", files={"f": 3_000_000}, age_days=1)
    path = config(maintenance={"pressure": {"limits": {"blog": 1_000_000, "scratch": 1_000_000}}})
    path.write_text(path.read_text() + "[paths.usage]\nsession_warning_mb = 1\n")
    found = {}
    for arguments in ((), ("--root", "lab")):
        for event in run("disk-check", "--config", path, *arguments).of_type("disk_pressure"):
            found[event["workstream_id"]] = (event["scope"], event["workstream_name"])
    session = "session:7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11"
    assert found == {
        "blog": ("blog", "My blog"),
        "scratch": ("scratch", "Scratch"),
        session: (session, "Scratch session 7b1f3a52…"),
        "lab/blog": ("blog", "My blog (lab)"),
        "lab/scratch": ("scratch", "Scratch (lab)"),
        f"lab/{session}": (session, "Scratch session 7b1f3a52… (lab)"),
    }


def test_a_database_of_a_root_that_is_not_there_is_an_error_for_that_root_alone(
    run: RunCommand, config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config(database=str(tmp_path / "gone.db"))
    done = run("scratch-cleanup", "--config", path, "--root", "lab")
    assert (done.code, "database of the root lab: " in done.stderr) == (78, True)
    assert run("scratch-cleanup", "--config", path).code == 0


@pytest.mark.parametrize("command", [("scratch-cleanup",), ("disk-check",), ("trash", "list"), ("report",), ("schedule", "show")])
def test_an_unknown_name_is_refused_with_78_and_the_names_there_are(
    run: RunCommand, config: Callable[..., Path], command: tuple[str, ...]
) -> None:
    done = run(*command, "--config", config(), "--root", "lba")
    assert (done.code, done.stdout) == (78, "")
    assert "it has lab; the nearest is lab" in done.stderr


def test_without_any_root_in_a_file_a_name_is_refused(run: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "c.toml").touch()
    for words in ((), ("--config", tmp_path / "c.toml")):
        done = run("disk-check", "--root", "lab", *words)
        assert (done.code, "[[maintenance.roots]]" in done.stderr, done.stderr.count("\n")) == (78, True, 1)


def test_two_ways_to_say_the_root_are_a_usage_error(run: RunCommand, config: Callable[..., Path], tree: SampleTree) -> None:
    words = [("--root", "lab"), ("--base-path", tree.root)]
    for first, second in (words, words[::-1]):
        done = run("scratch-cleanup", "--config", config(), *first, *second)
        assert (done.code, "exclude each other" in done.stderr, done.stdout) == (2, True, "")
    nagios = run("disk-check", "--format", "nagios", *words[0], *words[1])
    assert (nagios.code, nagios.stdout.startswith("DISK UNKNOWN")) == (3, True)


def test_without_a_main_root_the_names_are_told(run: RunCommand, lab: SampleTree, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"[[maintenance.roots]]\nname = 'lab'\npath = '{lab.root}'\n[[maintenance.roots]]\nname = 'b'\npath = '/b'\n")
    done = run("disk-check", "--config", path)
    assert (done.code, "with --root: lab, b" in done.stderr) == (78, True)
    assert run("disk-check", "--config", path, "--root", "lab").code == 0


def test_a_named_root_is_never_worked_on_by_the_rules_of_another(
    run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path], tmp_path: Path
) -> None:
    lab.session("old", files={"f": 1}, age_days=20)
    path = config(scratch_cleanup_days=30)
    (tmp_path / "link").symlink_to(lab.root)
    for words, environment in (
        (("--base-path", lab.root), {}),
        (("--base-path", tmp_path / "link"), {}),
        ((), {"ARAWN_BASE_PATH": str(lab.root)}),
    ):
        done = run("scratch-cleanup", "--config", path, *words, **environment)
        assert (done.code, "use --root lab" in done.stderr) == (78, True)
    (tmp_path / "main").symlink_to(tree.root)
    path.write_text(path.read_text().replace(str(lab.root), str(tmp_path / "main")))
    done = run("scratch-cleanup", "--config", path, "--root", "lab")
    assert (done.code, "is also the main root" in done.stderr) == (78, True)
    assert (lab.sessions / "old").is_dir()


def test_levels_and_runs_of_two_roots_are_remembered_apart(
    run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path]
) -> None:
    for each in (tree, lab):
        each.workstream("blog", "My blog", {"work/a": 3_000})
    path = config(limits={"blog": 2_000})
    raised = run("disk-check", "--config", path, "--root", "lab", "--fail-on", "warning")
    assert (raised.code, [(event["level"], event["scope"]) for event in raised.of_type("disk_pressure")]) == (3, [("warning", "blog")])
    quiet = run("disk-check", "--config", path, "--fail-on", "warning")
    assert (quiet.code, quiet.of_type("disk_pressure")) == (0, [])
    recovered = run("disk-check", "--config", config(), "--root", "lab")
    assert [event["level"] for event in recovered.of_type("disk_pressure")] == ["ok"]


def test_the_other_commands_work_on_the_named_root(run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path]) -> None:
    lab.session("old", files={"f": 1}, age_days=20)
    path = config(maintenance={"cleanup": {"trash_days": 3}}, total_warning_gb=3)
    named = ("--config", path, "--root", "lab")
    assert run("scratch-cleanup", *named).removed() == {"old"}
    assert run("trash", "list", "--config", path).events == []
    assert [(event["session_id"], event["root"]) for event in run("trash", "list", *named).events] == [("old", "lab")]
    assert run("trash", "restore", "old", *named).last["action"] == "restored"
    assert (lab.sessions / "old").is_dir()
    assert run("trash", "purge", "--all", *named).code == 0
    assert "'total'=" in run("disk-check", *named, "--format", "nagios").stdout
    assert ";3221225472;" in run("disk-check", *named, "--format", "nagios").stdout
    assert str(lab.root) in run("report", *named).stdout.replace("\n", "")  # a long path is wrapped
    doctor = run("doctor", *named)
    checks = {str(event["check"]): event for event in doctor.of_type("doctor_check")}
    assert str(lab.root) in str(checks["root"]["detail"])
    assert {event["root"] for event in doctor.events} == {"lab"}
    main = {str(event["check"]): str(event["detail"]) for event in run("doctor", "--config", path).of_type("doctor_check")}
    assert main["configuration"] == f"read from {path}; check its other roots with --root: lab"
    settings = {event["key"]: event["source"] for event in doctor.of_type("effective_setting")}
    assert settings["paths.usage.total_warning_gb"] == f"{path}: maintenance.roots[0].total_warning_gb"


@pytest.fixture
def textfiles(run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path], tmp_path: Path) -> Path:
    """What both jobs write for both roots."""
    directory = tmp_path / "textfiles"
    directory.mkdir()
    path = config(maintenance={"metrics": {"textfile_dir": str(directory)}})
    for each, words in ((tree, ()), (lab, ("--root", "lab"))):
        each.workstream("blog", "My blog", {"work/a": 3_000})
        for job in ("disk-check", "scratch-cleanup"):
            assert run(job, "--config", path, *words).code == 0
    return directory


@needs_promtool
def test_the_metrics_of_two_roots_stand_in_files_of_their_own(textfiles: Path, tree: SampleTree, lab: SampleTree) -> None:
    names = {file_name(job, account_name(os.geteuid()), each.root) for job in JobName for each in (tree, lab)}
    assert (set(os.listdir(textfiles)), len(names)) == (names, 4)
    for path in textfiles.iterdir():
        done = subprocess.run(["promtool", "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@needs_node_exporter
def test_node_exporter_serves_the_series_of_both_roots(textfiles: Path, tree: SampleTree, lab: SampleTree) -> None:
    with node_exporter(textfiles) as url, urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback address
        served = answer.read().decode()
    assert "node_textfile_scrape_error 0" in served
    series = [line for line in served.splitlines() if line.startswith("arawn_disk_check_last_run_timestamp_seconds{")]
    assert len(series) == 2
    for root in (tree.root, lab.root):
        assert sum(f"root={json.dumps(str(root))}" in line for line in series) == 1
    assert samples(served)
