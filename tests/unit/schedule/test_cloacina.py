"""What `schedule serve` does where Cloacina is not there, and what it decides before it starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arawn_cli.cli.demo import SampleTree
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName, RunResult
from arawn_cli.schedule.cloacina.engine import why_unloadable
from arawn_cli.schedule.cloacina.engine_status import result_of
from arawn_cli.schedule.cloacina.runs import (
    ENDING,
    OUTCOME,
    WORKER,
    Crew,
    Done,
    FailedRunError,
    Order,
    RefusedContextError,
    ordered,
    outcome_of,
)
from arawn_cli.schedule.cloacina.schedules import EngineDatabase, LastRun, database_from
from arawn_cli.schedule.cloacina.workflows import Changes, changes_to
from arawn_cli.schedule.intervals import cloacina_time
from tests.conftest import Run

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


@pytest.mark.parametrize(
    ("error", "glibc", "told"),
    [
        (MISSING, (2, 41), "is not installed"),
        (MISSING, (2, 36), "needs glibc 2.38, and this machine has 2.36: on a newer one"),
        (
            ImportError("version `GLIBC_2.38' not found"),
            (2, 36),
            "needs glibc 2.38, and this machine has 2.36: `arawn-cli schedule install`",
        ),
        (ImportError("no such symbol"), (2, 41), "cannot be loaded here (no such symbol)"),
        (MISSING, None, "is not installed"),
    ],
)
def test_an_engine_that_cannot_be_loaded_costs_one_clear_sentence(error: ImportError, glibc: tuple[int, ...] | None, told: str) -> None:
    assert told in why_unloadable(error, glibc)
    assert "schedule install" in why_unloadable(error, glibc)
    assert "\n" not in why_unloadable(error, glibc)


def test_no_command_but_serve_imports_the_engine(environment: dict[str, str], tree: SampleTree) -> None:
    code = (
        "import sys; sys.argv = ['arawn-cli', *sys.argv[1:]]\n"
        "from arawn_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: print('looked', *(name for name in sys.modules if 'cloac' in name or name == 'psycopg'), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", code, "disk-check", "--base-path", str(tree.root), "--format", "none"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "looked"


def test_show_tells_the_workflows_and_their_times_without_the_engine(run: Command, tree: SampleTree, tmp_path: Path) -> None:
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
    ("last", "result"),
    [
        (None, None),
        (LastRun("2026-01-01T00:00:00Z", "the removal limit keeps 2 sessions", {}), RunResult.FAILED),
        (LastRun("2026-01-01T00:00:00Z", None, {OUTCOME: outcome_of(0, b'{"summary": null}', None).outcome}), RunResult.SUCCESS),
        (LastRun("2026-01-01T00:00:00Z", None, {OUTCOME: outcome_of(75, b"{}", None).outcome}), RunResult.LOCKED),
    ],
)
def test_a_result_is_told_in_the_words_of_the_other_schedulers(last: LastRun | None, result: RunResult | None) -> None:
    assert result_of(last) is result


def test_status_of_what_was_never_served_says_so(run: Command, tree: SampleTree) -> None:
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


def test_a_database_is_shown_and_told_without_its_secrets() -> None:
    database = EngineDatabase("postgresql://user:p%40ss@host:5432/arawn?password=other")
    assert str(database) == "postgresql://host:5432/arawn"
    assert "p%40ss" not in repr(database)
    assert database.without_secrets("p%40ss and p@ss at host") == "*** and *** at host"


@pytest.mark.parametrize("secret", ["se/cret@h", "pa#ssw@h", "?secret@h", "p@ss@h"])
def test_a_password_that_cannot_be_told_apart_is_refused_and_not_repeated(run: Command, tree: SampleTree, secret: str) -> None:
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
    assert changes_to(wanted, there) == Changes((("arawn_disk_check_lab", "c"),), (("3", "b"),), ("2", "4"))


ORDER = Order(JobName.SCRATCH_CLEANUP, None, None)


def test_a_context_overrides_what_it_may() -> None:
    asked = {"older_than_days": 30, "dry_run": True, "base_path": "/srv/other", "scheduled_time": "now"}
    assert ordered(ORDER, asked) == Order(JobName.SCRATCH_CLEANUP, None, "/srv/other", older_than_days=30, dry_run=True)
    assert Order.from_json(ordered(ORDER, asked).to_json()) == ordered(ORDER, asked)


@pytest.mark.parametrize(
    ("order", "context"),
    [
        (ORDER, {"force": True}),
        (ORDER, {"older_than_days": 0}),
        (ORDER, {"older_than_days": True}),
        (ORDER, {"older_than_days": "7"}),
        (ORDER, {"dry_run": "no"}),
        (ORDER, {"base_path": "relative"}),
        (ORDER, {"base_path": "/a\0b"}),
        (Order(JobName.SCRATCH_CLEANUP, None, None, root="lab"), {"base_path": "/srv/other"}),
        (Order(JobName.DISK_CHECK, None, None), {"older_than_days": 7}),
    ],
)
def test_a_context_that_asks_for_anything_else_is_refused(order: Order, context: dict[str, object]) -> None:
    with pytest.raises(RefusedContextError):
        ordered(order, context)


def worked(environment: dict[str, str], order: Order, service: int | None = None) -> tuple[int, dict[str, object] | None]:
    """The exit status of the process that does a run, and what it told its service; None where it said nothing."""
    reader, writer = os.pipe()
    command = [sys.executable, *WORKER, order.to_json(), str(writer), str(os.getpid() if service is None else service)]
    done = subprocess.run(command, env=environment, capture_output=True, pass_fds=(writer,), check=False)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    return done.returncode, json.loads(text) if text else None


def test_a_run_tells_its_summary_or_the_reason_why_it_failed(environment: dict[str, str], tree: SampleTree, tmp_path: Path) -> None:
    for name in ("old-one", "old-two"):
        tree.session(name, files={"f": 10}, age_days=30)
    tree.session("new", files={"f": 10}, age_days=1)
    file = tmp_path / "c.toml"
    file.write_text(f'paths.base_path = "{tree.root}"\nmaintenance.cleanup.max_sessions = 1\n')
    status, told = worked(environment, Order(JobName.SCRATCH_CLEANUP, str(file), None))
    assert told is not None
    assert (status, told["reason"]) == (77, "refused for safety: nothing was removed: the removal limit keeps 2 sessions")
    status, told = worked(environment, Order(JobName.DISK_CHECK, str(file), None))
    assert told is not None
    assert isinstance(told["summary"], dict)
    assert (status, told["summary"]["type"]) == (0, "disk_check")
    status, told = worked(environment, Order(JobName.DISK_CHECK, str(tmp_path / "missing.toml"), None))
    assert told is not None
    assert (status, told["summary"]) == (78, None)
    assert "missing.toml" in str(told["reason"])


def test_a_run_whose_service_is_gone_is_not_begun(environment: dict[str, str], tree: SampleTree) -> None:
    tree.session("old", files={"f": 10}, age_days=30)
    assert worked(environment, Order(JobName.SCRATCH_CLEANUP, None, str(tree.root)), service=1) == (-9, None)
    assert (tree.sessions / "old").exists()


class Held:
    """A claim that nobody takes away."""

    def is_held(self) -> bool:
        return True


def test_a_run_may_have_much_to_tell(environment: dict[str, str], tree: SampleTree) -> None:
    for number in range(1500):
        tree.session(f"session-with-a-long-name-{number:060}", files={}, age_days=30)
    done = Crew(environment, 2).run(Order(JobName.SCRATCH_CLEANUP, None, str(tree.root)), Held(), 60)
    assert done.summary is not None
    assert done.summary["sessions_checked"] == 1500
    assert len(json.dumps(done.summary)) > 1 << 16


def test_a_second_signal_ends_a_run_though_the_thread_that_starts_it_takes_none(environment: dict[str, str], tree: SampleTree) -> None:
    for number in range(100):
        tree.session(f"s{number:03}", files={f"f{index}": 1 for index in range(30)}, age_days=30)
    reader, writer = os.pipe()
    crew = Crew(environment, writer)

    def started() -> Done:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        return crew.run(Order(JobName.SCRATCH_CLEANUP, None, str(tree.root)), Held(), 60)

    with ThreadPoolExecutor(1) as threads, os.fdopen(reader) as events:
        run = threads.submit(started)
        assert json.loads(events.readline())["action"] == "deleted"
        crew.stop()
        os.close(writer)
        assert json.loads(events.readlines()[-1])["type"] == "scratch_cleanup"
        with pytest.raises(FailedRunError, match="SIGTERM"):
            run.result(30)
    assert any(tree.sessions.iterdir())


def test_a_run_that_was_killed_is_told_as_killed() -> None:
    for answer in (b"", b'{"reason": "do', b'{"reason": "done", "summary": null}'):
        with pytest.raises(FailedRunError, match="was killed by SIGKILL"):
            outcome_of(-9, answer, None)
