"""Bad input gives one clear message, its exit code, no traceback, and removes nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import COMMAND, WITHOUT_FILE_POWERS, RunCommand, needs_root, needs_setpriv, snapshot
from tests.support.tree import SampleTree

COMMANDS = ("scratch-cleanup", "disk-check")


def refused(run: RunCommand, tree: SampleTree, code: int, *arguments: object, **extra: str) -> str:
    """Both commands end with the code and one message, and leave the tree as it was."""
    tree.session("old", files={"f": 1}, age_days=30)
    before = snapshot(tree.root)
    for command in COMMANDS:
        done = run(command, *arguments, **extra)
        assert (done.code, done.stdout) == (code, ""), (command, done)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("ERROR: ")
    assert snapshot(tree.root) == before
    return done.stderr


def test_no_configuration_and_no_root_names_the_ways_to_give_one(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    message = refused(run, tree, 78)
    home = tmp_path / "home"
    assert f"no workstreams/ in any of {home}/.config/arawn/workstreams, {home}/.arawn; " in message
    assert "--base-path" in message
    assert "arawn-cli demo" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[paths\n", "is not valid TOML"),
        ('a = "\xff"\n', "is not UTF-8"),
        (
            "[paths.cleanup]\nscratch_cleanup_days = 0\n",
            "paths.cleanup.scratch_cleanup_days: found 0; allowed: 1 or more",
        ),
        ("[paths.cleanup]\nscratch_cleanup_days = 0\n", "to stop cleanup, disable its timer or crontab line instead"),
        ('[paths.cleanup]\nscratch_cleanup_days = "7"\n', "found '7'; allowed: a whole number such as 7, without quotes or a point"),
        ("[paths.cleanup]\nscratch_cleanup_days = true\n", "scratch_cleanup_days: found True"),
        ("[paths.cleanup]\nscratch_cleanup_days = 7.0\n", "scratch_cleanup_days: found 7.0"),
        ("[paths.usage]\ntotal_warning_gb = nan\n", "total_warning_gb: found nan"),
        (
            "[paths.cleanup]\nscratch_cleanup_day = 70\n",
            "paths.cleanup.scratch_cleanup_day: unknown, and too similar to paths.cleanup.scratch_cleanup_days to be ignored",
        ),
        ("[paths.cleanup]\ntrash_days = 3\n", "too similar to maintenance.cleanup.trash_days to be ignored"),
        ("[paths]\nscratch_cleanup_days = 90\n", "too similar to paths.cleanup.scratch_cleanup_days to be ignored"),
        ("[paths]\nclean_up = 1\n", "too similar to paths.cleanup to be ignored"),
        ("[maintenance]\nroots_ = 1\n", "maintenance.roots_: unknown key; the nearest known key is maintenance.roots"),
        ("[maintenence.cleanup]\ntrash_days = 3\n", "maintenence: unknown, and too similar to maintenance to be ignored"),
        ("[path.cleanup]\nscratch_cleanup_days = 90\n", "path: unknown, and too similar to paths to be ignored"),
        ("[paths.usage]\ntotal_warning_gb = 9_999_999_999\n", "total_warning_gb: found 9999999999; allowed: 1000000000 or less"),
        ("[paths.usage]\ntotal_warning_gb = '10'\n", "total_warning_gb: found '10'; allowed: a whole number such as 7"),
        ("[paths.usage]\ntotal_warning_gb = 10.0\n", "total_warning_gb: found 10.0; allowed: a whole number such as 7"),
        ("[paths.usage]\ntotal_warning_gb = 0.5\n", "set [maintenance.pressure] total instead, which Arawn does not read"),
        ("[paths.usage]\nworkstream_warning_gb = 0.5\n", "set [maintenance.pressure] workstream instead"),
        ("[paths.usage]\nsession_warning_mb = 0.5\n", "set [maintenance.pressure] session instead"),
        ("[paths.usage]\ntotal_warning_gb = -1\n", "total_warning_gb: found -1; allowed: 0 or more"),
        (
            "[[maintenance.roots]]\nname = 'lab'\npath = '/lab'\nsession_warning_mb = 0.5\n",
            "maintenance.roots[0].session_warning_mb: found 0.5; allowed: a whole number such as 7, without quotes or a point; "
            "for any other size, such as 512MiB, set session of the same root instead",
        ),
        ("[paths.cleanup]\ndry_run = 'yes'\n", "dry_run: found 'yes'; allowed: true or false, without quotes"),
        ("[maintenance.pressure]\nfilesystem_warning_percent = 96\n", "filesystem_critical_percent at or above filesystem_warning_percent"),
        ("x = " + "[" * 5000, "is not valid TOML"),
        ("x = " + "1" * 5000, "is not valid TOML"),
        *(
            (f'{table}\n{key} = "{start}a\\u0000b"\n', f"{key}: found '{start}a\\x00b'; allowed: string should match pattern")
            for table, key in (
                ("[paths]", "base_path"),
                ("[storage]", "data_dir"),
                ("[workstream]", "data_dir"),
                ("[workstream]", "database"),
                ("[maintenance]", "root"),
                ("[maintenance]", "state_dir"),
                ("[maintenance.metrics]", "textfile_dir"),
                ("[[maintenance.roots]]\nname = 'lab'", "path"),
            )
            for start in ("/", "~")
        ),
        ("[workstream]\ndatabse = 'x'\n", "workstream.databse: unknown, and too similar to workstream.database to be ignored"),
        ("[workstream]\ndata_dir = 'arawn'\ndatabase = 'gone.db'\n", "gone.db does not exist"),
        ("[maintenance.cleanup]\nprotect = 'x'\n", "protect: found 'x'; allowed: a list in square brackets"),
        *(
            (
                f"[maintenance.cleanup]\nprotect = ['keep-*', '{pattern}']\n",
                f"protect[1]: found {pattern!r}; allowed: a pattern that a session id",
            )
            for pattern in ("s1/", "./s1", "s1 ", "/srv/arawn/s1", "", "-s1", "s1.", "[!-a-zA-Z0-9_]")
        ),
        ("[[maintenance.roots]]\nname = 'a'\npath = '/a'\nprotect = ['s1/']\n", "maintenance.roots[0].protect[0]: found 's1/'"),
        ("[maintenance.pressure]\nlimits = 3\n", "limits: found 3; allowed: a table"),
        ("[maintenance]\nrelay = 3\n", "maintenance.relay: found 3; allowed: a table"),
        ("[maintenance]\nthreads = -1\n", "maintenance.threads: found -1"),
        ("[maintenance]\nio_class = 'realtime'\n", "allowed: 'idle', 'best-effort' or 'none'"),
        ("[maintenance.relay]\ntoken = 'secret'\n", "name that with maintenance.relay.token_file"),
        (
            "[maintenance.pressure.limits]\nx = '5 bananas'\n",
            "limits.x: found '5 bananas'; allowed: a size such as \"5GiB\", or a number of bytes",
        ),
        ("[maintenance.pressure.limits]\nx = ''\n", "limits.x: found ''; allowed: a size such as"),
        ("[maintenance.pressure.limits]\nx = 0\n", "a size above zero"),
        ("[maintenance.pressure]\nrepeat_interval = 'often'\n", "allowed: a duration such as 90s"),
    ],
)
def test_a_wrong_configuration_is_refused_with_78(run: RunCommand, tree: SampleTree, tmp_path: Path, content: str, said: str) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(content.encode("latin-1"))
    message = refused(run, tree, 78, "--base-path", tree.root, "--config", config)
    assert said in message
    assert str(config) in message or "gone.db" in message
    assert "secret" not in message


def test_all_errors_of_a_file_are_told_at_once(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "[paths.cleanup]\nscratch_cleanup_days = 0\ndry_runn = 1\n[maintenance]\nnice = 99\n[maintenance.cleanup]\nprotect = 'x'\n"
    )
    message = refused(run, tree, 78, "--base-path", tree.root, "--config", config)
    assert "4 errors" in message
    for path in ("paths.cleanup.scratch_cleanup_days", "paths.cleanup.dry_runn", "maintenance.nice", "maintenance.cleanup.protect"):
        assert message.count(f"  {path}: ") == 1


def test_tables_and_keys_of_arawns_own_are_passed_over(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "[server]\nport = 8080\n[llm]\nmodel = 'x'\n[workstream]\nsession_timeout_minutes = 60\n[workstream.compression]\nenabled = true\n"
    )
    assert run("scratch-cleanup", "--base-path", tree.root, "--config", config).code == 0


def test_a_configuration_that_was_asked_for_and_is_missing_is_an_error(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "config.toml"
    assert str(gone) in refused(run, tree, 78, "--base-path", tree.root, "--config", gone)
    for command in COMMANDS:
        assert run(command, "--base-path", tree.root, ARAWN_CONFIG=str(gone)).code == 78


def test_a_directory_named_for_the_configuration_may_have_none(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "home" / ".config" / "arawn").mkdir(parents=True)
    (tmp_path / "home" / ".config" / "arawn" / "config.toml").write_text("not TOML")
    for variable in ("ARAWN_CONFIG_DIR", "ARAWN_DATA_DIR"):
        read = run("scratch-cleanup", "--base-path", tree.root, **{variable: str(tmp_path / "gone")})
        assert read.code == (0 if variable == "ARAWN_CONFIG_DIR" else 78)


def test_an_arawn_toml_in_the_current_directory_is_not_read(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("s", files={"f": 1}, age_days=5)
    (tmp_path / "arawn.toml").write_text("[paths.cleanup]\nscratch_cleanup_days = 1\n")
    assert run("scratch-cleanup", "--base-path", tree.root).reasons() == {"s": "recent_files"}


def test_a_missing_root_is_refused(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    assert "does not exist" in refused(run, tree, 78, "--base-path", tmp_path / "gone")


def test_a_root_that_is_a_file_is_refused(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory" in refused(run, tree, 78, "--base-path", tmp_path / "file")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda tree: "", "is empty"),
        (lambda tree: "/", "the root is /"),
        *((lambda _, path=path: path, "is a system directory") for path in ("/usr", "/usr/lib", "/var/lib", "/etc", "/home", "/proc/sys")),
        (lambda tree: tree.root.parent / "home", "is a home directory without workstreams/"),
        (
            lambda tree: tree.workstreams / "scratch",
            "scratch has no workstreams/ folder: refused, it does not look like an Arawn root; name the",
        ),
        (lambda tree: tree.workstreams.chmod(0o777) or tree.root, "writable by everyone"),
        (lambda tree: tree.root.chmod(0o777) or tree.root, "writable by everyone"),
        (lambda tree: tree.root.parent.chmod(0o777) or tree.root, "who could put another root in its place"),
    ],
)
def test_an_unsafe_root_is_refused_with_77(run: RunCommand, tree: SampleTree, make: Callable[[SampleTree], object], said: str) -> None:
    tree.session("other", files={"f": 1}, age_days=1)
    root = make(tree)
    assert said in refused(run, tree, 77, "--base-path", root)


def test_the_home_of_a_service_account_can_be_the_root(run: RunCommand, tree: SampleTree, environment: dict[str, str]) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    environment["HOME"] = str(tree.root)
    assert run("scratch-cleanup", "--base-path", tree.root).removed() == {"old"}


@needs_root
def test_a_root_that_a_shared_group_can_write_to_is_warned_of(run: RunCommand, tree: SampleTree) -> None:
    tree.sessions.chmod(0o775)
    assert "group" not in run("scratch-cleanup", "--base-path", tree.root).stderr  # the owner's own
    os.chown(tree.sessions, -1, 100)
    done = run("scratch-cleanup", "--base-path", tree.root)
    assert (done.code, f"every account in the group of {tree.sessions} can write to it" in done.stderr) == (0, True)
    (finding,) = [event for event in run("doctor", "--base-path", tree.root, "--format", "json").events if event.get("check") == "root"]
    assert (finding["status"], f"chmod g-w {tree.sessions}" in str(finding["fix"])) == ("warn", True)


def test_the_folder_in_a_root_is_refused_and_the_root_is_named(run: RunCommand, tree: SampleTree) -> None:
    assert f"name {tree.root} instead" in refused(run, tree, 77, "--base-path", tree.workstreams)


def test_a_database_that_is_no_database_keeps_every_session_with_exit_1(run: RunCommand, tree: SampleTree) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    tree.session("new", files={"f": 1}, age_days=1)
    tree.turn("new", tree.ago(1))
    tree.database.write_bytes(b"this is no database" * 100)
    done = run("scratch-cleanup", "--base-path", tree.root)
    assert (done.code, done.reasons()) == (1, {"old": "activity_unknown", "new": "active"})
    assert done.stderr.count("file is not a database") == 1
    check = run("disk-check", "--base-path", tree.root)
    assert (check.code, check.last["complete"], check.last["level"]) == (1, False, "unknown")


@needs_setpriv
@pytest.mark.parametrize("closed", [("messages.jsonl",), ("sessions", "old", "work", "inner"), ("sessions",)], ids=lambda path: path[-1])
def test_what_an_ordinary_user_may_not_read_keeps_what_it_concerns(
    environment: dict[str, str], tree: SampleTree, tmp_path: Path, closed: tuple[str, ...]
) -> None:
    """Root without its power over files stands for a user: the same tree, the same interpreter."""
    tree.session("old", files={"inner/f": 1}, age_days=30)
    tree.turn("old", tree.ago(30))
    place = tree.sessions.parent.joinpath(*closed)
    os.chown(place, 65534, 65534)
    place.chmod(0o700 if place.is_dir() else 0o600)
    done = subprocess.run(
        [*WITHOUT_FILE_POWERS, str(COMMAND), "scratch-cleanup", "--base-path", str(tree.root)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (78 if place == tree.sessions else 1)
    assert (tree.sessions / "old" / "work" / "inner" / "f").exists()


@pytest.mark.parametrize("arguments", [("--older-than-days", "0"), ("--older-than-days", "x"), ("--format", "xml"), ("--nonsense",)])
def test_wrong_options_are_usage_errors(run: RunCommand, tree: SampleTree, arguments: tuple[str, ...]) -> None:
    done = run("scratch-cleanup", "--base-path", tree.root, *arguments)
    assert (done.code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--base-path", "~nobody-of-that-name/x"), ("--config", "~nobody-of-that-name/x")])
def test_an_unknown_home_is_a_configuration_error(run: RunCommand, tree: SampleTree, arguments: tuple[str, ...]) -> None:
    assert "no home directory is known for" in refused(run, tree, 78, *arguments)


def test_a_fifo_in_the_place_of_the_database_is_unreadable_evidence(run: RunCommand, tree: SampleTree) -> None:
    tree.session("old", files={"f": 1}, age_days=30)
    tree.database.unlink()
    os.mkfifo(tree.database)
    done = run("scratch-cleanup", "--base-path", tree.root, timeout=20)
    assert (done.code, done.reasons()) == (1, {"old": "activity_unknown"})


@pytest.mark.parametrize(
    "command",
    [
        "config show",
        "config show --format json",
        "config schema",
        "config init -",
        "schedule show",
        "schedule show --cloacina",
        "schedule status",
        "doctor --format json",
        "doctor --format table",
    ],
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_what_a_full_disk_takes_nothing_of_is_undelivered(run: RunCommand, tree: SampleTree, command: str, buffered: str) -> None:
    root = [] if command.startswith(("config schema", "config init")) else ["--base-path", tree.root]
    full = ("bash", "-c", 'exec "$0" "$@" >/dev/full')
    done = run(*command.split(), *root, prefix=full, PYTHONUNBUFFERED=buffered)
    assert (done.code, done.stderr.splitlines()[-1]) == (69, "ERROR: cannot write to standard output: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", ["config schema", "config show", "disk-check --format table", "report", "report --html -", "trash list", "-h"]
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_closes_the_pipe_is_no_error(run: RunCommand, tree: SampleTree, command: str, buffered: str) -> None:
    root = [] if command in ("config schema", "-h") else ["--base-path", tree.root]
    done = run(*command.split(), *root, prefix=("bash", "-c", '"$0" "$@" | exec 0<&-; exit ${PIPESTATUS[0]}'), PYTHONUNBUFFERED=buffered)
    assert (done.code, done.stderr) == (0, "")


def test_a_plugin_called_wrong_is_unknown_also_where_nothing_takes_its_line(run: RunCommand) -> None:
    done = run("disk-check", "--format", "nagios", "--nope", prefix=("bash", "-c", 'exec "$0" "$@" >/dev/full'))
    assert done.code == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lost", ['exec "$0" "$@" 2>/dev/full', 'exec "$0" "$@" 2> >(:)'])
def test_a_log_that_nobody_takes_changes_no_exit_code(run: RunCommand, tree: SampleTree, tmp_path: Path, lost: str) -> None:
    tree.workstream("blog", "My blog", {"work/f": 5000})
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.pressure]\ntotal = 1\n")
    prefix = ("bash", "-c", lost)
    assert run("disk-check", "--base-path", tree.root, "--config", config, "--fail-on", "warning", prefix=prefix).code == 3
    assert run("disk-check", "--config", tmp_path / "none", prefix=prefix).code == 78


def test_a_run_without_descriptors_for_the_processes_keeps_those_sessions_and_ends_with_its_summary(
    run: RunCommand, tree: SampleTree
) -> None:
    for number in range(40):
        tree.session(f"s{number}", files={"f": 1}, age_days=30)
    done = run("scratch-cleanup", "--base-path", tree.root, "--format", "json", prefix=("sh", "-c", 'ulimit -n 20; exec "$0" "$@"'))
    assert (done.code, done.last["type"]) == (1, "scratch_cleanup"), done.stderr
    removed = done.removed()
    assert {path.name for path in tree.sessions.iterdir()} == {f"s{number}" for number in range(40)} - removed
    assert done.last["sessions_checked"] == 40


@pytest.mark.parametrize("words", [("trash", "list", "--all"), ("disk-check", "--parked", "retry"), ("disk-check", "--parked", "drop")])
def test_a_command_that_needs_the_state_is_not_done_without_it(
    run: RunCommand, tree: SampleTree, tmp_path: Path, words: tuple[str, ...]
) -> None:
    state = tmp_path / "state"
    state.touch()
    done = run(*words, "--base-path", tree.root, STATE_DIRECTORY=str(state))
    assert (done.code, done.stdout) == (1, "")
    assert "not a directory" in done.stderr.lower()
