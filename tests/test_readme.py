"""The README says what the code does."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from arawn_cli.config_tables import ConfigFile
from arawn_cli.demo import build
from arawn_cli.errors import EXIT_MEANINGS, ExitCode
from arawn_cli.scratch_session import Reason
from tests.conftest import Run

README = (Path(__file__).parents[1] / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]


def test_the_exit_code_table_is_the_codes() -> None:
    assert rows("Exit codes") == [[str(int(code)), EXIT_MEANINGS[code]] for code in ExitCode]


def test_the_reasons_are_the_closed_set() -> None:
    told = [row[0].strip("`") for row in rows("When a session is removed")]
    assert set(told) == {str(reason) for reason in Reason}
    assert len(told) == len(set(told))


def test_the_configuration_of_the_readme_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert ConfigFile.model_validate(tomllib.loads(example)).paths.cleanup.scratch_cleanup_days == 14


def test_every_test_that_a_promise_names_exists() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (Path(__file__).parents[1] / "docs" / "safety.md").read_text())
    assert len(named) >= 12
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_the_demo_of_the_readme_is_what_demo_prints(run: Callable[..., Run]) -> None:
    (shown,) = re.findall(r"`make demo` prints.*?```text\n(.*?)```", README, re.DOTALL)
    assert without_the_day_and_the_machine(run("demo", COLUMNS="100").stdout) == without_the_day_and_the_machine(shown)


def without_the_day_and_the_machine(text: str) -> list[str]:
    for pattern in (r"\d{4}-\d\d-\d\d", r"/\S*/arawn-demo-\w+", r"; \S+ has .* free"):
        text = re.sub(pattern, "-", text)
    return [line.rstrip() for line in text.splitlines() if not re.match(r"(?:warning|critical): (?:filesystem|inodes) ", line)]


def test_the_nagios_line_of_the_docs_is_that_of_the_demo(run: Callable[..., Run], tmp_path: Path) -> None:
    (shown,) = re.findall(r"^DISK .*", (Path(__file__).parents[1] / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    config = build(tmp_path / "demo", time.time_ns())
    run("scratch-cleanup", "--config", config)
    printed = run("disk-check", "--format", "nagios", "--config", config).stdout
    assert without_the_disk(printed) == without_the_disk(shown)


def without_the_disk(line: str) -> str:
    """The numbers of a status line but those of the filesystem below; its words may name that as the worst."""
    return re.sub(r"'(?:filesystem|inodes)'=\S+ ", "", line.partition(" | ")[2].strip())
