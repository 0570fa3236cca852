"""`schedule serve`, `show` and `status` without Cloacina, and the runs that it starts."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil
import pytest

from arawn_cli.command_events import RunResult
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.locks import lock_file, make_private_directory, run_lock
from arawn_cli.schedule.cloacina import service
from arawn_cli.schedule.cloacina.engine_database import EngineDatabase, EngineError, LastRun, database_from
from arawn_cli.schedule.cloacina.service import ENDING, FailedRunError, RunPool, load_engine, summary_of
from arawn_cli.schedule.cloacina.workflows import RefusedContextError, Workflow, arguments_with, changes_to
from arawn_cli.schedule.intervals import cloacina_time
from tests.conftest import Run
from tests.support.relay_fixtures import wait_until
from tests.support.tree import SampleTree

Command = Callable[..., Run]
MISSING = ModuleNotFoundError("No module named 'cloaca'", name="cloaca")


def test_without_the_extra_serve_says_how_to_get_it(run: Command, tree: SampleTree) -> None:
    done = run("schedule", "serve", "--cloacina", "--base-path", tree.root)
    assert done.code == 78
    assert len(done.stderr.splitlines()) == 1
    assert "python -m pip install '.[cloacina]'` in a checkout" in done.stderr.replace("python3", "python")


def test_serve_needs_an_engine_by_name(run: Command, tree: SampleTree) -> None:
    assert run("schedule", "serve", "--base-path", tree.root).code == 2
    assert run("schedule", "show", "--cloacina", "--cron", "--base-path", tree.root).code == 2
    assert run("schedule", "status", "--database", "sqlite:///x", "--base-path", tree.root).code == 2


@pytest.mark.parametrize("error", [MISSING, ImportError("version `GLIBC_2.38' not found\n")], ids=["missing", "old glibc"])
def test_an_engine_that_cannot_be_loaded_is_an_error_of_one_line(error: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise error

    monkeypatch.setattr("arawn_cli.schedule.cloacina.service.importlib.import_module", import_module)
    with pytest.raises(EngineError) as raised:
        load_engine()
    assert all(part in str(raised.value) for part in (str(error).strip(), "glibc 2.38", "pip install", "`arawn-cli schedule install`"))
    assert "\n" not in str(raised.value)


def test_no_command_but_serve_imports_the_engine(environment: dict[str, str], tree: SampleTree) -> None:
    code = (
        "import sys; sys.argv = ['arawn-cli', *sys.argv[1:]]\n"
        "from arawn_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('imported:', *(name for name in sys.modules if 'cloac' in name or name == 'psycopg'), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, "disk-check", "--base-path", str(tree.root), "--format", "none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "imported:"


def test_show_prints_the_workflows_and_their_times_without_the_engine(run: Command, tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"""
        paths.base_path = "{tree.root}"
        maintenance.schedule.disk_check = "10s"
        [[maintenance.roots]]
        name = "lab"
        path = "{tmp_path}/lab"
    """)
    done = run("schedule", "show", "--cloacina", "--config", file)
    assert done.code == 0
    times = dict(line.split("\t") for line in done.stdout.splitlines()[1:])
    assert times["arawn_disk_check"] == times["arawn_disk_check_lab"] == "*/10 * * * * *"
    assert list(times) == ["arawn_scratch_cleanup", "arawn_disk_check", "arawn_scratch_cleanup_lab", "arawn_disk_check_lab"]


@pytest.mark.parametrize(
    ("status", "context", "result", "error"),
    [
        ("Failed", None, RunResult.FAILED, "the removal limit keeps 2 sessions"),
        ("Completed", '{"outcome": "done"}', RunResult.SUCCESS, None),
        ("Completed", '{"outcome": "locked"}', RunResult.LOCKED, None),
        ("Completed", "[]", RunResult.SUCCESS, None),
    ],
)
def test_results_have_the_same_names_as_with_other_schedulers(
    tmp_path: Path, status: str, context: str | None, result: RunResult, error: str | None
) -> None:
    with closing(sqlite3.connect(tmp_path / "cloacina.db")) as connection, connection:
        connection.executescript("""
            CREATE TABLE workflow_executions (id, workflow_name, status, started_at, created_at, context_id);
            CREATE TABLE task_executions (workflow_execution_id, last_error);
            CREATE TABLE contexts (id, value);
            INSERT INTO workflow_executions VALUES (1, 'arawn_disk_check', 'Completed', '2025-01-01 00:00:00.5', 1, NULL);
        """)
        connection.execute("INSERT INTO workflow_executions VALUES (2, 'arawn_disk_check', ?, '2026-01-01 00:00:00.5', 2, 3)", (status,))
        connection.execute("INSERT INTO task_executions VALUES (2, ?)", (error,))
        connection.execute("INSERT INTO contexts VALUES (3, ?)", (context,))
    found = database_from(None, {}, tmp_path).last_runs()
    assert found == {"arawn_disk_check": LastRun("2026-01-01T00:00:00Z", result, error)}


def test_workflows_that_are_not_registered_are_missing(run: Command, tree: SampleTree) -> None:
    done = run("schedule", "status", "--cloacina", "--base-path", tree.root)
    assert done.code == 1
    assert {(event["scheduler"], event["installed"]) for event in done.events} == {("cloacina", "missing")}


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hunter2@h/d", "postgres://h/d?password=hunter2", "postgresql://:hunter2@h/d", "postgresql://h/d?sslpassword=hunter2"],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(run: Command, tree: SampleTree, url: str) -> None:
    done = run("schedule", "show", "--cloacina", "--database", url, "--base-path", tree.root)
    assert done.code == 78
    assert "hunter2" not in done.stdout + done.stderr
    assert "ARAWN_CLOACINA_URL" in done.stderr


def test_the_database_comes_from_the_option_a_credential_the_environment_or_the_state(tmp_path: Path) -> None:
    (tmp_path / "cloacina-url").write_text("postgresql://u:p@credential/d\n")
    both = {"CREDENTIALS_DIRECTORY": str(tmp_path), "ARAWN_CLOACINA_URL": "postgresql://u:p@variable/d"}
    assert str(database_from("postgresql://u@option/d", both, tmp_path)) == "postgresql://option/d"
    assert str(database_from(None, both, tmp_path)) == "postgresql://credential/d"
    assert str(database_from(None, {"ARAWN_CLOACINA_URL": both["ARAWN_CLOACINA_URL"]}, tmp_path)) == "postgresql://variable/d"
    assert database_from(None, {}, tmp_path).file == tmp_path / "cloacina.db"
    for wrong in ("mysql://h/d", "sqlite:cloacina.db", "cloacina.db", "sqlite:///x?mode=ro"):
        with pytest.raises(ConfigurationError):
            database_from(wrong, {}, tmp_path)


def test_a_database_is_shown_and_logged_without_its_secrets() -> None:
    database = EngineDatabase("postgresql://user:p%40ss@host:5432/arawn?password=other")
    assert str(database) == "postgresql://host:5432/arawn"
    assert "p%40ss" not in repr(database)
    assert database.without_secrets("p%40ss and p@ss at host") == "*** and *** at host"


@pytest.mark.parametrize("secret", ["se/cret@h", "pa#ssw@h", "?secret@h", "p@ss@h"])
def test_a_password_with_unescaped_characters_is_refused_and_not_repeated(run: Command, tree: SampleTree, secret: str) -> None:
    url = f"postgresql://u:{secret}/db"
    for arguments, environment in ((("--database", url), {}), ((), {"ARAWN_CLOACINA_URL": url})):
        done = run("schedule", "show", "--cloacina", *arguments, "--base-path", tree.root, **environment)
        assert done.code == 78
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("interval", "expected"),
    [("2s", "*/2 * * * * *"), ("30s", "*/30 * * * * *"), ("1m", "0 * * * * *"), ("minutely", "0 * * * * *")],
)
def test_an_interval_becomes_six_fields(interval: str, expected: str) -> None:
    assert cloacina_time(interval, JobName.DISK_CHECK, "/srv/arawn") == expected


def test_times_are_the_same_on_every_machine_and_weekdays_have_names() -> None:
    times = [cloacina_time(interval, JobName.SCRATCH_CLEANUP, "/srv/arawn") for interval in ("daily", "weekly", "monthly", "12h")]
    assert times == [cloacina_time(interval, JobName.SCRATCH_CLEANUP, "/srv/arawn") for interval in ("daily", "weekly", "monthly", "12h")]
    assert all(time.startswith("0 ") and len(time.split()) == 6 for time in times)
    assert times[1].split()[5].isalpha()
    with pytest.raises(ConfigurationError):
        cloacina_time("7m", JobName.DISK_CHECK, "/srv/arawn")


def test_schedules_become_what_is_wanted_and_those_of_others_stay() -> None:
    def found(identity: str, name: str, cron: str) -> dict[str, object]:
        return {"id": identity, "workflow_name": name, "cron_expression": cron}

    wanted = {"arawn_disk_check": "a", "arawn_scratch_cleanup": "b", "arawn_disk_check_lab": "c"}
    there = [
        found("1", "arawn_disk_check", "a"),
        found("2", "arawn_disk_check", "a"),
        found("3", "arawn_scratch_cleanup", "old"),
        found("4", "arawn_scratch_cleanup_gone", "d"),
        found("5", "backup", "e"),
    ]
    assert changes_to(wanted, there) == ({"arawn_scratch_cleanup": "b", "arawn_disk_check_lab": "c"}, ["2", "3", "4"])


CLEANUP = Workflow("arawn_scratch_cleanup", "0 0 4 * * *", JobName.SCRATCH_CLEANUP, None, ("scratch-cleanup", "--base-path=/srv/arawn"))
CHECK = Workflow("arawn_disk_check", "0 * * * * *", JobName.DISK_CHECK, None, ("disk-check",))


def test_a_context_adds_options() -> None:
    given = {"older_than_days": 30, "dry_run": True, "base_path": "/srv/other", "scheduled_time": "now"}
    assert arguments_with(CLEANUP, given) == [*CLEANUP.arguments, "--older-than-days=30", "--dry-run", "--base-path=/srv/other"]
    assert arguments_with(CHECK, {"dry_run": False}) == ["disk-check", "--no-dry-run"]


@pytest.mark.parametrize(
    ("workflow", "context"),
    [
        (CLEANUP, {"force": True}),
        (CLEANUP, {"older_than_days": 0}),
        (CLEANUP, {"older_than_days": True}),
        (CLEANUP, {"older_than_days": "7"}),
        (CLEANUP, {"dry_run": "no"}),
        (CLEANUP, {"base_path": "relative"}),
        (CLEANUP, {"base_path": "/a\0b"}),
        (replace(CLEANUP, root="lab"), {"base_path": "/srv/other"}),
        (CHECK, {"older_than_days": 7}),
    ],
)
def test_a_context_with_any_other_key_or_value_is_refused(workflow: Workflow, context: dict[str, object]) -> None:
    with pytest.raises(RefusedContextError):
        arguments_with(workflow, context)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[IO[bytes]]:
    """The standard output of a service."""
    with (tmp_path / "events").open("w+b") as file:
        yield file


def held() -> bool:
    return True


def outcome(environment: dict[str, str], events: IO[bytes], *arguments: str) -> Mapping[str, object] | None:
    return RunPool(environment, events.fileno()).run([*arguments, "--format=json", "--unless-running"], held, 60)


def test_a_run_returns_its_summary_or_raises_the_reason_why_it_failed(
    environment: dict[str, str], events: IO[bytes], tree: SampleTree, tmp_path: Path
) -> None:
    for name in ("old-one", "old-two"):
        tree.session(name, files={"f": 10}, age_days=30)
    tree.session("new", files={"f": 10}, age_days=1)
    file = tmp_path / "c.toml"
    file.write_text(f'paths.base_path = "{tree.root}"\nmaintenance.cleanup.max_sessions = 1\n')
    with pytest.raises(FailedRunError, match=r"refused for safety.*: the removal limit keeps 2 sessions"):
        outcome(environment, events, "scratch-cleanup", f"--config={file}")
    done = outcome(environment, events, "disk-check", f"--config={file}")
    assert done is not None
    assert done["type"] == "disk_check"
    with pytest.raises(FailedRunError, match=r"configuration.*: see the log of the service"):
        outcome(environment, events, "disk-check", f"--config={tmp_path}/missing.toml")
    events.seek(0)
    lines = [json.loads(line) for line in events]
    assert [line["type"] for line in lines if line["type"] in ("scratch_cleanup", "disk_check")] == ["scratch_cleanup", "disk_check"]
    assert lines[-1] == done


def test_a_run_that_finds_another_one_is_no_failure(environment: dict[str, str], events: IO[bytes], tree: SampleTree) -> None:
    state = Path(environment["HOME"], "state")
    make_private_directory(state)
    with run_lock(lock_file(state, "scratch-cleanup", tree.root), "busy", 0, hold=True):
        assert outcome({**environment, "STATE_DIRECTORY": str(state)}, events, "scratch-cleanup", f"--base-path={tree.root}") is None


def test_a_run_names_its_first_failure() -> None:
    failures = [{"operation": "delete", "path": "a/b", "message": "Operation not permitted"}] * 2
    with pytest.raises(FailedRunError, match=r"2 failures, the first: delete a/b: Operation not permitted"):
        summary_of(1, json.dumps({"type": "scratch_cleanup", "failures": failures}).encode(), None)


def test_events_that_cannot_be_written_fail_the_run(environment: dict[str, str], tree: SampleTree) -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(FailedRunError, match="standard output takes no more: No space left"):
        outcome(environment, full, "disk-check", f"--base-path={tree.root}")


SERVICE = """
import os, sys, threading, time
from arawn_cli.schedule.cloacina.service import RunPool
pool = RunPool(os.environ, 1)
threading.Thread(target=pool.run, args=(sys.argv[1:], lambda: True, 60), daemon=True).start()
time.sleep(60)
"""


@pytest.fixture
def tree_of_two_batches(tree: SampleTree) -> SampleTree:
    """More sessions than a run removes at once; if nobody reads their events, full pipes hold the
    run before the second batch."""
    for number in range(2100):
        tree.session(f"s{number:04}", files={"f": 1}, age_days=30)
    return tree


def test_a_run_ends_with_its_service(environment: dict[str, str], tree_of_two_batches: SampleTree) -> None:
    tree = tree_of_two_batches
    command = [sys.executable, "-c", SERVICE, "scratch-cleanup", "--format=json", f"--base-path={tree.root}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert json.loads(service.stdout.readline())["action"] == "trashed"
        runs = psutil.Process(service.pid).children()
        assert [run.cmdline()[1:4] for run in runs] == [["-P", "-m", "arawn_cli"]]
        service.kill()
    assert psutil.wait_procs(runs, 10)[1] == []
    assert any(tree.sessions.iterdir())


def test_a_run_whose_service_is_gone_is_not_begun(environment: dict[str, str], tree: SampleTree, tmp_path: Path) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    # The service dies before the run asks the kernel for a signal in that case.
    late = tmp_path / "bin" / "setpriv"
    late.parent.mkdir()
    late.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid; kill -KILL $PPID; sleep 0.2; PATH="${{PATH#*:}}" exec setpriv "$@"\n')
    late.chmod(0o755)
    inside = {**environment, "PATH": f"{late.parent}:{environment['PATH']}"}
    command = [sys.executable, "-c", SERVICE, "scratch-cleanup", f"--base-path={tree.root}"]
    assert subprocess.run(command, env=inside, check=False, timeout=60).returncode == -signal.SIGKILL
    run = int((tmp_path / "pid").read_text())
    wait_until(lambda: not psutil.pid_exists(run))
    assert (tree.sessions / "old").exists()


def test_a_run_may_have_a_long_summary(environment: dict[str, str], events: IO[bytes], tree: SampleTree) -> None:
    for number in range(1500):
        tree.session(f"session-with-a-long-name-{number:060}", files={}, age_days=30)
    done = outcome(environment, events, "scratch-cleanup", f"--base-path={tree.root}")
    assert done is not None
    assert done["sessions_checked"] == 1500
    assert len(json.dumps(done)) > 1 << 16


def test_terminate_ends_a_run_though_the_thread_that_starts_it_blocks_signals(
    environment: dict[str, str], tree_of_two_batches: SampleTree
) -> None:
    tree = tree_of_two_batches
    reader, writer = os.pipe()
    pool = RunPool(environment, writer)

    def started() -> Mapping[str, object] | None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        return pool.run(["scratch-cleanup", "--format=json", f"--base-path={tree.root}"], held, 60)

    with ThreadPoolExecutor(2) as threads, os.fdopen(reader) as events:
        run = threads.submit(started)
        assert json.loads(events.readline())["action"] == "trashed"
        pool.terminate()
        rest = threads.submit(events.readlines)  # only now the run goes on
        with pytest.raises(FailedRunError, match="SIGTERM"):
            run.result(60)
        os.close(writer)
        assert json.loads(rest.result(60)[-1])["type"] == "scratch_cleanup"
    assert any(tree.sessions.iterdir())


def test_a_run_that_loses_its_lock_is_killed(
    environment: dict[str, str], events: IO[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CHECK_SECONDS", 0.1)
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    with pytest.raises(FailedRunError, match="the connection to the database was lost"):
        RunPool({**environment, "PYTHONPATH": str(tmp_path)}, events.fileno()).run(["disk-check"], lambda: False, 60)


def test_a_run_that_takes_too_long_is_ended(environment: dict[str, str], events: IO[bytes], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    with pytest.raises(FailedRunError, match="not done within 1 seconds"):
        RunPool({**environment, "PYTHONPATH": str(tmp_path)}, events.fileno()).run(["disk-check"], held, 1)


def no_new_thread(*_: object) -> int:
    raise RuntimeError("can't start new thread")


def silent_thread(*_: object) -> int:
    """A thread that gets no memory: it ends before it begins its work."""
    return 0


@pytest.mark.parametrize("start", [no_new_thread, silent_thread])
def test_without_memory_for_a_thread_a_run_is_ended_and_the_service_does_not_begin(
    environment: dict[str, str], events: IO[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., int]
) -> None:
    monkeypatch.setattr("arawn_cli.fs.mounts.start_new_thread", start)
    monkeypatch.setattr(service, "_CHECK_SECONDS", 0.1)
    for variable in ("RUST_LOG", "NO_COLOR"):
        monkeypatch.setenv(variable, "")
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    pool = RunPool({**environment, "PYTHONPATH": str(tmp_path)}, events.fileno())
    with pytest.raises(OSError, match="new thread"):
        pool.run(["disk-check"], held, 60)
    assert pool.processes == set()
    stdout = os.fstat(1)
    with pytest.raises(OSError, match="new thread"):
        service._forward_stdout(str)
    assert os.path.samestat(os.fstat(1), stdout)


def test_a_run_that_was_killed_says_so() -> None:
    for line in (b"", b'{"reason": "do', b'{"type": "disk_check"}'):
        with pytest.raises(FailedRunError, match="was killed by SIGKILL"):
            summary_of(-9, line, None)
