"""README, tutorial and the page of reasons say what the code does."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from arawn_cli.config.schema import ConfigFile
from arawn_cli.events import Reason
from tests.conftest import Run
from tests.support.tree import build

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text()


def test_the_reasons_are_the_closed_set() -> None:
    section = (TOP / "docs" / "reasons.md").read_text().split("\n## The reasons\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]
    named = [row[0].strip("`") for row in rows]
    assert set(named) == {str(reason) for reason in Reason}
    assert len(named) == len(set(named))
    assert all(len(row) == 3 and row[2] for row in rows)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


def test_the_configuration_of_the_readme_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert ConfigFile.model_validate(tomllib.loads(example)).paths.cleanup.scratch_cleanup_days == 14


def commands_of(heading: str) -> list[list[str]]:
    """The commands of each block of a section."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [re.findall(r"^\$ (.*)", block, re.MULTILINE) for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL)]


def test_an_account_of_its_own_is_three_commands_from_a_dry_run() -> None:
    own, server = commands_of("Install")
    assert own == ["sudo apt install pipx", "pipx install .", "~/.local/bin/arawn-cli scratch-cleanup --dry-run --verbose"]
    assert server[0] == "sudo apt install python3-venv"


def test_a_command_as_root_names_the_root_of_the_other_account() -> None:
    blocks = [*commands_of("Install"), *commands_of("Schedule")]
    as_root = [command for block in blocks for command in block if command.startswith("sudo arawn-cli ")]
    assert len(as_root) == 2
    assert [command for command in as_root if "--base-path /home/arawn/.arawn" not in command] == []


def test_to_uninstall_is_to_take_the_program_away_too() -> None:
    (told,) = re.findall(r"To uninstall, .*?\.\n\n", README, re.DOTALL)
    assert re.findall(r"`([^`]+)`", told)[::2] == ["arawn-cli schedule remove", "pipx uninstall arawn-cli"]
    assert "/usr/local/bin/arawn-cli`" in told


def test_every_test_that_a_promise_names_exists() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (TOP / "docs" / "safety.md").read_text())
    assert len(named) >= 12
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_the_demo_of_the_tutorial_is_what_demo_prints(run: Callable[..., Run]) -> None:
    (shown,) = re.findall(r"`make demo` prints.*?```text\n(.*?)```", (TOP / "docs" / "tutorial.md").read_text(), re.DOTALL)
    assert without_the_day_and_the_machine(run("demo", COLUMNS="100").stdout) == without_the_day_and_the_machine(shown)


def without_the_day_and_the_machine(text: str) -> str:
    """The text in one line: the free space of the machine decides where a line breaks."""
    lines = [line for line in text.splitlines() if not re.match(r"(?:warning|critical): (?:filesystem|inodes) ", line)]
    joined = " ".join(" ".join(lines).split())
    for pattern in (r"\d{4}-\d\d-\d\d", r"\d\d:\d\d UTC", r"/\S*/arawn-demo-\w+", r"\S+ is \d+% full, [^;]* free"):
        joined = re.sub(pattern, "-", joined)
    return joined


def test_the_nagios_line_of_the_docs_is_that_of_the_demo(run: Callable[..., Run], tmp_path: Path) -> None:
    (shown,) = re.findall(r"^DISK .*", (TOP / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    config = build(tmp_path / "demo", time.time_ns())
    run("scratch-cleanup", "--config", config)
    printed = run("disk-check", "--format", "nagios", "--config", config).stdout
    assert without_the_disk(printed) == without_the_disk(shown)


def without_the_disk(line: str) -> str:
    """The numbers of a status line but those of the filesystem below; its words may name that as
    the worst."""
    return re.sub(r"'(?:filesystem|inodes)'=\S+ ", "", line.partition(" | ")[2].strip())
