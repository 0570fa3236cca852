"""Several roots in one configuration: each with its own rules and its own evidence, and none with another's."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tomli_w

from arawn_cli.config import Config, Flags, load
from arawn_cli.errors import ConfigurationError
from arawn_cli.origins import settings_of
from arawn_cli.sample_tree import SampleTree
from tests.conftest import Run, snapshot
from tests.test_monitoring import needs_node_exporter, needs_promtool, node_exporter, samples

RunCommand = Callable[..., Run]
GIB = 1024**3
MAIN = {"base_path": "/srv/arawn", "cleanup": {"scratch_cleanup_days": 10}}


@pytest.fixture
def lab(tmp_path: Path) -> SampleTree:
    """The tree of a second root."""
    return SampleTree(tmp_path / "lab", time.time_ns())


@pytest.fixture
def config(tmp_path: Path, tree: SampleTree, lab: SampleTree) -> Callable[..., Path]:
    """A file with a main root of seven days and the root `lab`, with what a test gives it of its own."""

    def write(*, maintenance: dict[str, object] | None = None, **own: object) -> Path:
        path = tmp_path / "c.toml"
        roots = [{"name": "lab", "path": str(lab.root), **own}]
        tables = {"state_dir": str(tmp_path / "state"), "roots": roots, **(maintenance or {})}
        path.write_text(tomli_w.dumps({"paths": {"base_path": str(tree.root)}, "maintenance": tables}))
        return path

    return write


def written(path: Path, *roots: Mapping[str, object], **tables: object) -> Path:
    path.write_text(tomli_w.dumps({"paths": MAIN, **tables, "maintenance": {"roots": list(roots)}}))
    return path


def of_lab(path: Path, base_path: str | None = None, older_than_days: int | None = None) -> Config:
    return load(Flags(config=path, base_path=base_path, older_than_days=older_than_days, root="lab"), {"HOME": "/home/me"})


def wrong(path: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(Flags(config=path), {})
    return str(error.value)


def test_each_root_is_cleaned_by_its_own_days_and_no_other_is_touched(
    run: RunCommand, tree: SampleTree, lab: SampleTree, config: Callable[..., Path]
) -> None:
    for each in (tree, lab):
        for days in (5, 20, 40):
            each.session(f"s{days}", files={"f": 100}, age_days=days)
    path = config(scratch_cleanup_days=30)
    before = snapshot(tree.root)
    done = run("scratch-cleanup", "--config", path, "--root", "lab", ARAWN_BASE_PATH=str(tree.root))
    assert (done.code, done.sessions("deleted"), done.sessions("kept")) == (0, {"s40"}, {"s5", "s20"})
    assert snapshot(tree.root) == before
    assert {event["root"] for event in done.events} == {"lab"}
    done = run("scratch-cleanup", "--config", path)
    assert (done.code, done.sessions("deleted"), done.sessions("kept")) == (0, {"s20", "s40"}, {"s5"})
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


def test_a_database_of_a_root_that_is_not_there_is_an_error_for_that_root_alone(
    run: RunCommand, config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config(database=str(tmp_path / "gone.db"))
    done = run("scratch-cleanup", "--config", path, "--root", "lab")
    assert (done.code, "database of the root lab: " in done.stderr) == (78, True)
    assert run("scratch-cleanup", "--config", path).code == 0


def test_what_a_root_does_not_say_is_inherited_and_what_protects_is_added(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    maintenance = {
        "nice": 3,
        "cleanup": {"protect": ["keep-*"], "trash_days": 4, "max_sessions": 9},
        "pressure": {"for_checks": 2, "limits": {"blog": "1GiB", "thesis": "2GiB"}},
    }
    own = {"total_warning_gb": 50.0, "limits": {"thesis": "8GiB"}, "protect": ["lab-*"]}
    path.write_text(tomli_w.dumps({"paths": MAIN, "maintenance": {**maintenance, "roots": [{"name": "lab", "path": "/lab", **own}]}}))
    config = of_lab(path)
    assert (config.root, config.root_name, config.database, config.older_than_days) == (Path("/lab"), "lab", None, 10)
    assert (config.total_limit_bytes, config.workstream_limit_bytes) == (50 * GIB, GIB)
    assert config.maintenance.pressure.limits == {"blog": GIB, "thesis": 8 * GIB}
    assert config.maintenance.cleanup.protect == ("keep-*", "lab-*")
    assert (config.maintenance.nice, config.maintenance.cleanup.trash_days, config.maintenance.pressure.for_checks) == (3, 4, 2)
    main = load(Flags(config=path), {})
    assert (main.root, main.root_name, main.total_limit_bytes) == (Path("/srv/arawn"), None, 10 * GIB)
    assert main.maintenance.cleanup.protect == ("keep-*",)
    assert of_lab(path, base_path="/elsewhere").root == Path("/lab")
    assert of_lab(path, older_than_days=2).older_than_days == 2


def test_each_value_of_a_named_root_names_its_source(tmp_path: Path) -> None:
    other = {"name": "other", "path": "/other", "protect": ["x"]}
    path = written(
        tmp_path / "c.toml",
        other,
        {"name": "lab", "path": "/lab", "session_warning_mb": 7.0, "protect": ["y"]},
        workstream={"data_dir": "x"},
    )
    flags = Flags(config=path, root="lab")
    found = {setting.key: (setting.value, setting.source) for setting in settings_of(load(flags, {}), flags, {"ARAWN_BASE_PATH": "/env"})}
    assert found["paths.base_path"] == ('"/lab"', f"{path}: maintenance.roots[1].path")
    assert found["paths.usage.session_warning_mb"] == ("7.0", f"{path}: maintenance.roots[1].session_warning_mb")
    protect = ('["y"]', f"{path}: maintenance.cleanup.protect and maintenance.roots[1].protect")
    assert found["maintenance.cleanup.protect"] == protect
    assert found["paths.cleanup.scratch_cleanup_days"] == ("10", str(path))
    assert found["workstream.database"] == found["workstream.data_dir"] == ("null", "default")
    assert found["paths.usage.total_warning_gb"] == ("10.0", "default")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"path": "srv/lab"}, "maintenance.roots[1].path: found 'srv/lab'; allowed: an absolute path, or one that begins with ~"),
        ({"database": "lab.db"}, "maintenance.roots[1].database: found 'lab.db'; allowed: an absolute path"),
        ({"name": "-x"}, "maintenance.roots[1].name: found '-x'"),
        ({"name": "a/b"}, "maintenance.roots[1].name: found 'a/b'"),
        ({"name": "x" * 65}, "maintenance.roots[1].name: found 'xxx"),
        (
            {"name": "one"},
            "maintenance.roots[1].name: found 'one'; allowed: a name of its own, and this is that of maintenance.roots[0].name",
        ),
        (
            {"path": "/one/../one/"},
            "maintenance.roots[1].path: found '/one/../one/'; allowed: a path of its own, and this is that of maintenance",
        ),
        ({"path": "/srv/arawn"}, "a path of its own, and this is that of paths.base_path"),
        (
            {"path": "/one/workstreams/scratch/sessions/x/work"},
            "allowed: a path that is not below the workstreams of maintenance.roots[0].path",
        ),
        ({"database": "/one/workstreams.db"}, "allowed: a database of its own, and this is that of maintenance.roots[0].path"),
        ({"database": "/srv/arawn/workstreams.db"}, "a database of its own, and this is that of paths.base_path"),
        ({"scratch_cleanup_days": 0}, "maintenance.roots[1].scratch_cleanup_days: found 0"),
        ({"scratch_cleanup_day": 3}, "scratch_cleanup_day: unknown key; the nearest known key is maintenance.roots.scratch_cleanup_days"),
        ({"trash_days": 3}, "maintenance.roots[1].trash_days: unknown key; the nearest known key is maintenance.cleanup.trash_days"),
        ({"limits": {"x": 0}}, "maintenance.roots[1].limits.x: found 0; allowed: a size above zero"),
    ],
)
def test_a_wrong_root_is_a_fault_of_the_file_with_its_dotted_path(tmp_path: Path, own: dict[str, object], said: str) -> None:
    entry = {"name": "two", "path": "/two", **own}
    assert said in wrong(written(tmp_path / "c.toml", {"name": "one", "path": "/one"}, entry))


def test_all_faults_of_all_roots_are_told_at_once(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", {"name": "a", "path": "/a"}, {"name": "a", "path": "b", "pth": 1}, {"name": "", "path": "/a"})
    done = run("scratch-cleanup", "--config", path, "--base-path", tree.root)
    assert (done.code, "5 wrong" in done.stderr, done.stdout) == (78, True, "")
    for where in ("[1].name", "[1].path", "[1].pth", "[2].name", "[2].path"):
        assert done.stderr.count(f"  maintenance.roots{where}: ") == 1


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
        assert (done.code, "say --root lab" in done.stderr) == (78, True)
    (tmp_path / "main").symlink_to(tree.root)
    path.write_text(path.read_text().replace(str(lab.root), str(tmp_path / "main")))
    done = run("scratch-cleanup", "--config", path, "--root", "lab")
    assert (done.code, "is the main root" in done.stderr) == (78, True)
    assert (lab.sessions / "old").is_dir()


def test_a_path_below_home_is_the_homes_of_who_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written(tmp_path / "c.toml", {"name": "lab", "path": "~/lab"})
    assert of_lab(path).root == tmp_path / "lab"


def test_timers_whose_account_has_another_home_are_told_to_write_it_out(run: RunCommand, lab: SampleTree, tmp_path: Path) -> None:
    lab.root.rename(tmp_path / "home" / "lab")
    path = written(tmp_path / "c.toml", {"name": "lab", "path": "~/lab"})
    words = ("schedule", "show", "--systemd", "--config", path, "--root", "lab")
    assert f"--config {path} --root lab --unless-running" in run(*words, "--user").stdout
    done = run(*words, "--system")
    assert (done.code, "path of the root lab begins with ~" in done.stderr) == (78, True)


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
    assert run("scratch-cleanup", *named).sessions("deleted") == {"old"}
    assert run("trash", "list", "--config", path).events == []
    assert [(event["session_id"], event["root"]) for event in run("trash", "list", *named).events] == [("old", "lab")]
    assert run("trash", "restore", "old", *named).last["action"] == "restored"
    assert (lab.sessions / "old").is_dir()
    assert run("trash", "purge", *named).code == 0
    assert "'total'=" in run("disk-check", *named, "--format", "nagios").stdout
    assert ";3221225472;" in run("disk-check", *named, "--format", "nagios").stdout
    assert str(lab.root) in run("report", *named).stdout
    doctor = run("doctor", *named)
    checks = {str(event["check"]): event for event in doctor.of_type("doctor_check")}
    assert str(lab.root) in str(checks["root"]["detail"])
    assert {event["root"] for event in doctor.events} == {"lab"}
    main = {str(event["check"]): str(event["detail"]) for event in run("doctor", "--config", path).of_type("doctor_check")}
    assert main["configuration"] == f"{path} is read; it names other roots, and --root looks at each: lab"
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
def test_the_metrics_of_two_roots_stand_in_files_of_their_own(textfiles: Path) -> None:
    names = ("arawn_disk_check.lab.prom", "arawn_disk_check.prom", "arawn_scratch_cleanup.lab.prom", "arawn_scratch_cleanup.prom")
    assert tuple(sorted(os.listdir(textfiles))) == names
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
