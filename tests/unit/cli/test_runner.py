"""`run_job`: what a run returns, whatever ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from arawn_cli.cli.demo import SampleTree
from arawn_cli.cli.options import Output
from arawn_cli.cli.runner import JobRun, run_job
from arawn_cli.config.loader import Config, Flags
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.job import check
from arawn_cli.errors import ExitCode, LockedError, RefusedError, StoppedError
from arawn_cli.output import nagios, prometheus

QUIET = Output(format="none", quiet=True)


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
        (OSError(28, "No space left on device"), ExitCode.INTERNAL, "OSError: [Errno 28] No space left on device"),
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
        raise StoppedError("stopped by a signal")

    assert run(flags, stopped) == JobRun(None, ExitCode.TERMINATED, ["stopped by a signal"])


def test_a_bug_after_the_job_keeps_the_result_and_a_plugin_is_not_ok(flags: Flags, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "write", lambda *_arguments: 1 / 0)
    checked = run_job(flags, QUIET, check)
    assert (checked.exit_code, checked.problems) == (ExitCode.INTERNAL, ["ZeroDivisionError: division by zero"])
    assert checked.result is not None
    line, code = nagios.status(checked.result, checked.problems)
    assert (line.startswith("DISK UNKNOWN - "), code) == (True, 3)
