"""The status line and the return code of `disk-check --format nagios`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.errors import Failure
from arawn_cli.events import Level
from arawn_cli.output import nagios
from tests.conftest import COMMAND, WITHOUT_FILE_POWERS, RunCommand, needs, needs_setpriv
from tests.support.in_process import checked
from tests.support.relay_fixtures import free_port
from tests.support.tree import SampleTree

NEGATE = Path("/usr/lib/nagios/plugins/negate")
needs_negate = needs(NEGATE.exists(), "monitoring-plugins-basic")
STATUS_LINE = re.compile(r"DISK (OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+( \| ('[^'=]+'=\d+B?;\d*;\d*;0 ?)+)?\n")


@pytest.mark.parametrize(
    ("limit", "code", "text"),
    [(10**6, 0, "OK - total 5.4KiB of 10GiB"), (3_000, 1, "WARNING - blog 3.4KiB of 2.9KiB"), (100, 2, "CRITICAL - blog")],
)
def test_the_status_line_and_the_return_code(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], limit: int, code: int, text: str
) -> None:
    done = run("disk-check", "--base-path", filled.root, "--config", config(limit=limit), "--format", "nagios")
    assert done.code == code
    assert STATUS_LINE.fullmatch(done.stdout)
    assert f"DISK {text}" in done.stdout
    assert f"'blog'=3500B;{limit};{2 * limit};0" in done.stdout
    assert "'inodes'=" in done.stdout
    assert re.search(r"'own_files'=\d+B;;;0 ", done.stdout)
    assert "session:" not in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--base-path", "/nonexistent"), ("--config", "/nonexistent"), ("--bogus",), ("--relay-url", "ftp://x")]
)
def test_whatever_is_no_measurement_is_unknown(run: RunCommand, arguments: tuple[str, ...]) -> None:
    done = run("disk-check", "--format", "nagios", *arguments)
    assert done.code == 3
    assert done.stdout.startswith("DISK UNKNOWN - ")
    assert len(done.stdout.splitlines()) == 1


@needs_setpriv
def test_a_check_that_could_not_read_all_is_unknown(run: RunCommand, filled: SampleTree, config: Callable[..., Path]) -> None:
    (filled.workstreams / "blog" / "work").chmod(0)
    done = run("disk-check", "--base-path", filled.root, "--config", config(), "--format", "nagios", prefix=WITHOUT_FILE_POWERS)
    assert done.code == 3
    assert done.stdout.startswith("DISK UNKNOWN - incomplete, 1 failure: ")
    assert "Permission denied" in done.stdout


@pytest.mark.parametrize(("limit", "code", "word"), [(10**6, 3, "UNKNOWN"), (3_000, 3, "UNKNOWN"), (100, 2, "CRITICAL")])
def test_metrics_that_cannot_be_written_leave_only_critical(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], tmp_path: Path, limit: int, code: int, word: str
) -> None:
    file = config(limit=limit, metrics={"textfile_dir": str(tmp_path / "missing")})
    done = run("disk-check", "--base-path", filled.root, "--config", file, "--format", "nagios")
    assert (done.code, done.stdout.startswith(f"DISK {word} - ")) == (code, True)
    assert "the metrics could not be written" in done.stdout


@pytest.mark.parametrize(("limit", "code", "word"), [(3_000, 3, "UNKNOWN"), (100, 2, "CRITICAL")])
def test_a_lost_event_leaves_only_critical(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], limit: int, code: int, word: str
) -> None:
    relay = {"url": f"http://127.0.0.1:{free_port()}/", "deadline_secs": 1}
    file = config(limit=limit, relay=relay, state_dir="/dev/null/state")
    done = run("disk-check", "--base-path", filled.root, "--config", file, "--format", "nagios")
    assert (done.code, done.stdout.startswith(f"DISK {word} - ")) == (code, True)
    assert "events neither delivered nor stored: 1" in done.stdout


@pytest.mark.parametrize("option", [("--fail-on", "warning"), ("--unless-running",)])
def test_options_that_change_the_exit_code_are_refused(run: RunCommand, filled: SampleTree, option: tuple[str, ...]) -> None:
    done = run("disk-check", "--base-path", filled.root, "--format", "nagios", *option)
    assert (done.code, done.stdout) == (3, "DISK UNKNOWN - wrong options, see standard error\n")


def test_wrong_options_are_unknown_to_a_monitoring_system_even_if_standard_error_is_full(tree: SampleTree) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([COMMAND, "disk-check", "--format", "nagios", "--nope"], stdout=subprocess.DEVNULL, stderr=full, check=False)
    assert done.returncode == 3


def test_a_problem_beside_the_measurement_leaves_only_critical(tree: SampleTree) -> None:
    result, _ = checked(tree)
    for level, shown, code in (
        (Level.OK, "UNKNOWN", 3),
        (Level.WARNING, "UNKNOWN", 3),
        (Level.UNKNOWN, "UNKNOWN", 3),
        (Level.CRITICAL, "CRITICAL", 2),
    ):
        for complete, problems in ((True, ["KeyError: 'x'"]), (False, [])):
            summary = replace(result.summary, level=level, complete=complete)
            measured = replace(result, summary=summary, measurements=replace(result.measurements, failures=(Failure("open", "x", 13),)))
            line, return_code = nagios.status(measured, problems)
            assert (line.startswith(f"DISK {shown} - "), return_code) == (True, code)


@needs_negate
@pytest.mark.parametrize(("limit", "code"), [(10**6, 0), (3_000, 1), (100, 2)])
def test_a_caller_of_plugins_reads_line_and_code(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], environment: dict[str, str], tmp_path: Path, limit: int, code: int
) -> None:
    path = config(limit=limit)
    plugin = run(
        "disk-check",
        "--base-path",
        filled.root,
        "--config",
        path,
        "--format",
        "nagios",
        prefix=(str(NEGATE), "-s", "-o", "CRITICAL", "-c", "OK"),
    )
    assert plugin.code == {0: 2, 1: 1, 2: 0}[code]
    assert plugin.stdout.startswith({0: "DISK CRITICAL - ", 1: "DISK WARNING - ", 2: "DISK OK - "}[code])


def test_names_do_not_break_the_line(tree: SampleTree) -> None:
    result, _ = checked(tree)
    line, code = nagios.status(None, ["two\nlines | and a bar \x1b[31m"])
    assert (line, code) == ("DISK UNKNOWN - two lines / and a bar \\x1b[31m", 3)
    assert STATUS_LINE.fullmatch(nagios.status(result)[0] + "\n")
    assert nagios.RETURN_CODES == {Level.OK: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}
