"""`run_job`: what a run returns, whatever ends it; and the priority at which it runs."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from arawn_cli.cleanup.job import clean
from arawn_cli.cli.options import Format, Output
from arawn_cli.cli.runner import JobRun, run_job
from arawn_cli.config.loader import Config, Flags
from arawn_cli.context import RunContext
from arawn_cli.delivery.notify import Notifier
from arawn_cli.diskcheck.history import read_alerts
from arawn_cli.diskcheck.job import check
from arawn_cli.errors import ExitCode, LockedError, RefusedError, StoppedError
from arawn_cli.events import JobName, Level
from arawn_cli.output import nagios, prometheus
from arawn_cli.output.report_text import check_renderables
from arawn_cli.output.stdout import Stdout
from arawn_cli.runs import read as read_run
from arawn_cli.state import State
from tests.conftest import Run, needs, needs_strace
from tests.support.tree import SampleTree

QUIET = Output(format=Format.NONE, quiet=True)


@dataclass
class Done:
    exit_code: ExitCode = ExitCode.PARTIAL


@pytest.fixture
def flags(tree: SampleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flags:
    monkeypatch.setattr("arawn_cli.cli.runner.lower_priority", lambda _maintenance: None)  # the priority of the tests would stay low
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps({"maintenance": {"state_dir": str(tmp_path / "state"), "metrics": {"textfile_dir": str(tmp_path)}}}))
    return Flags(config=config, base_path=str(tree.root))


def run(flags: Flags, act: Callable[[RunContext], None], *, unless_running: bool = False) -> JobRun[Done]:
    def job(_config: Config, context: RunContext) -> Done:
        act(context)
        return Done()

    return run_job(flags, QUIET, job, unless_running=unless_running)


def failing(error: BaseException) -> Callable[[RunContext], None]:
    def act(_context: RunContext) -> None:
        raise error

    return act


def terminated(_context: RunContext) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_exit_code_is_that_of_the_result(flags: Flags) -> None:
    assert run(flags, lambda _context: None) == JobRun(Done(), ExitCode.PARTIAL, [])


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        (RefusedError("not here"), ExitCode.REFUSED, "not here"),
        (LockedError("in progress"), ExitCode.LOCKED, "in progress"),
        (KeyError("x"), ExitCode.INTERNAL, "KeyError: 'x'"),
        (OSError(28, "No space left on device"), ExitCode.PARTIAL, "OSError: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "KeyboardInterrupt: "),
    ],
)
def test_an_error_becomes_the_exit_code_and_a_problem(flags: Flags, error: BaseException, code: ExitCode, problem: str) -> None:
    assert run(flags, failing(error)) == JobRun(None, code, [problem])


def test_a_lock_of_another_run_is_no_failure_with_unless_running(flags: Flags) -> None:
    assert run(flags, failing(LockedError("in progress")), unless_running=True).exit_code is ExitCode.DONE
    assert run(flags, failing(RefusedError("not here")), unless_running=True).exit_code is ExitCode.REFUSED


def test_a_signal_outweighs_the_result_and_keeps_it(flags: Flags) -> None:
    assert run(flags, terminated) == JobRun(Done(), ExitCode.TERMINATED, ["stopped by a signal"])

    def stopped(context: RunContext) -> None:
        terminated(context)
        raise StoppedError

    assert run(flags, stopped) == JobRun(None, ExitCode.TERMINATED, ["stopped by a signal"])


def test_a_bug_after_the_job_keeps_the_result_and_a_plugin_is_not_ok(flags: Flags, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "write", lambda *_arguments: 1 / 0)
    checked = run_job(flags, QUIET, check)
    assert (checked.exit_code, checked.problems) == (ExitCode.INTERNAL, ["ZeroDivisionError: division by zero"])
    assert checked.result is not None
    line, code = nagios.status(checked.result, checked.problems)
    assert (line.startswith("DISK UNKNOWN - "), code) == (True, 3)


def test_a_bug_in_notifications_keeps_the_result_and_a_plugin_is_not_ok(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = tmp_path / "urls"
    urls.write_text("json://127.0.0.1:9/")
    urls.chmod(0o600)
    with open(tmp_path / "config.toml", "a") as config:
        config.write(f"[maintenance.notify]\nurls_file = '{urls}'\n")
    monkeypatch.setattr(Notifier, "finish", lambda *_arguments, **_named: 1 / 0)
    checked = run_job(flags, QUIET, check, name=JobName.DISK_CHECK)
    assert (checked.exit_code, checked.problems) == (ExitCode.INTERNAL, ["ZeroDivisionError: division by zero"])
    assert nagios.status(checked.result, checked.problems)[1] == 3


# What the tests themselves run with: nobody but root may go below it.
NICE = os.nice(0)
LOWEST = 19
needs_ionice = needs(shutil.which("ionice") is not None, "ionice")
needs_room_below = needs(NICE < LOWEST, "a nice value below 19")

LOOK = """
import psutil
from arawn_cli.config.schema import Maintenance
from arawn_cli.cli.runner import lower_priority
for _ in range(2):
    lower_priority(Maintenance(**{values}))
process = psutil.Process()
print(process.nice(), process.ionice().ioclass.name, process.ionice().value)
"""


@pytest.mark.parametrize(
    ("values", "nice", "disk"),
    [
        ({}, 10, "IOPRIO_CLASS_IDLE 0"),
        ({"nice": 3, "io_class": "best-effort"}, 3, "IOPRIO_CLASS_BE 7"),
        ({"nice": -5, "io_class": "none"}, -5, "IOPRIO_CLASS_NONE 0"),
    ],
)
def test_priorities_are_as_configured_and_never_raised(values: dict[str, object], nice: int, disk: str) -> None:
    program = LOOK.replace("{values}", repr(values))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{max(nice, NICE)} {disk}"


@needs_ionice
def test_what_is_lower_already_is_not_raised() -> None:
    program = LOOK.replace("{values}", repr({"nice": 3, "io_class": "best-effort"}))
    done = subprocess.run(
        ["nice", "-n", "15", "ionice", "-c", "3", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{min(NICE + 15, LOWEST)} IOPRIO_CLASS_IDLE")


@pytest.fixture
def lowest(tmp_path: Path) -> Path:
    """A configuration with a nice value below that of the tests."""
    path = tmp_path / "config.toml"
    path.write_text(f"[maintenance]\nnice = {LOWEST}\n")
    return path


PRIORITIES = "trace=setpriority,ioprio_set"


def strace(trace: Path, *expressions: str) -> tuple[str, ...]:
    """Trace each process to a file of its own: in one file, another process can divide the line of
    a call."""
    return ("strace", "-ff", "-qq", "-o", str(trace), "-e", "signal=none", *(word for each in expressions for word in ("-e", each)))


def calls_in(trace: Path) -> list[str]:
    return [line for file in trace.parent.glob(f"{trace.name}.*") for line in file.read_text().splitlines()]


@needs_strace
@needs_room_below
@pytest.mark.parametrize("call", ["setpriority", "ioprio_set"])
def test_where_one_priority_may_not_be_changed_the_other_is_and_the_run_goes_on(
    call: str, run: Callable[..., Run], tree: SampleTree, lowest: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    words = ("disk-check", "--base-path", tree.root, "--config", lowest)
    done = run(*words, prefix=strace(trace, PRIORITIES, f"inject={call}:error=EPERM"), traced=True)
    assert (done.code, done.stderr) == (0, "")
    ends = [line.split(" = ")[1] for line in calls_in(trace)]
    assert sorted(end.split()[0] for end in ends) == ["-1", "0"]


@needs_strace
@needs_room_below
def test_each_job_sets_them_itself(run: Callable[..., Run], tree: SampleTree, lowest: Path, tmp_path: Path) -> None:
    for job in ("scratch-cleanup", "disk-check"):
        trace = tmp_path / job
        prefix = strace(trace, PRIORITIES)
        assert run(job, "--base-path", tree.root, "--config", lowest, prefix=prefix, traced=True).code == 0
        ends = [line.split(", ", 2)[2].split() for line in sorted(calls_in(trace))]
        assert ends == [["IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE,", "0))", "=", "0"], [f"{LOWEST})", "=", "0"]]


class Failing(io.RawIOBase):
    """Standard output that takes a number of writes, and then fails."""

    def __init__(self, writes: int, number: int) -> None:
        self._left, self._error = writes, OSError(number, os.strerror(number))
        self._file = os.open(os.devnull, os.O_WRONLY)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file

    def write(self, data: object, /) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return len(bytes(data))  # type: ignore[call-overload]


@pytest.mark.parametrize("form", [Format.JSON, Format.TABLE])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE], ids=errno.errorcode.get)
def test_the_work_is_complete_whatever_output_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format, number: int) -> None:
    monkeypatch.setattr("arawn_cli.cli.runner.lower_priority", lambda _maintenance: None)
    for writes in range(6):
        place = tmp_path / str(writes)
        tree = SampleTree(place / "arawn", time.time_ns())
        tree.workstream("blog", "Über uns ✓", {"work/f": 5000})
        for session in ("old", "older", "young"):
            tree.session(session, files={"f": 10}, age_days=1 if session == "young" else 30)
        config = place / "config.toml"
        pressure = {"limits": {"blog": 1000}, "repeat_interval": "1d"}
        config.write_text(tomli_w.dumps({"maintenance": {"state_dir": str(place / "state"), "pressure": pressure}}))
        flags = Flags(config=config, base_path=str(tree.root))
        for job, table in ((check, lambda result: check_renderables(result, verbose=True)), (clean, None)):
            buffer = io.BufferedWriter(Failing(writes, number), 1)
            monkeypatch.setattr(sys, "stdout", Stdout(io.TextIOWrapper(buffer, encoding="ascii")))
            done = run_job(flags, Output(format=form, quiet=True), job, table=table)
            assert done.result is not None
            if done.exit_code is ExitCode.UNDELIVERED:
                assert number != errno.EPIPE
        monkeypatch.undo()
        monkeypatch.setattr("arawn_cli.cli.runner.lower_priority", lambda _maintenance: None)
        assert os.listdir(tree.sessions) == ["young"]
        with closing(State(place / "state", time.time_ns)) as state:
            assert {scope: stored.alert.level for scope, stored in read_alerts(state, tree.root).items()} == {"blog": Level.CRITICAL}
            assert all(read_run(state, job, tree.root) is not None for job in (JobName.DISK_CHECK, JobName.SCRATCH_CLEANUP))
