"""The status line and the return code of `disk-check --format nagios`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from arawn_cli.events import Level
from arawn_cli.output import nagios
from tests.conftest import WITHOUT_FILE_POWERS, RunCommand, needs, needs_setpriv
from tests.support.in_process import checked
from tests.support.tree import SampleTree

NEGATE = Path("/usr/lib/nagios/plugins/negate")
needs_negate = needs(NEGATE.exists(), "monitoring-plugins-basic")
STATUS_LINE = re.compile(r"DISK (OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+( \| ('[^'=]+'=\d+B?;\d+;\d+;0 ?)+)?\n")


@pytest.mark.parametrize(
    ("limit", "code", "text"),
    [(10**6, 0, "OK - total 5.5kB of 10.7GB"), (3_000, 1, "WARNING - blog 3.5kB of 3.0kB"), (100, 2, "CRITICAL - blog")],
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
