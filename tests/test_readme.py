"""The README says what the code does."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from arawn_cli.cli import app
from arawn_cli.config_tables import ConfigFile
from arawn_cli.errors import EXIT_MEANINGS, ExitCode
from arawn_cli.model import Reason

README = (Path(__file__).parents[1] / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]


def commands(group: TyperGroup, name: str = "") -> Iterator[tuple[str, TyperCommand]]:
    """Every command by the words that call it."""
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name}{word} ")
        elif isinstance(command, TyperCommand):
            yield f"{name}{word}", command


def test_the_exit_code_table_is_the_codes() -> None:
    assert rows("Exit codes") == [[str(int(code)), EXIT_MEANINGS[code]] for code in ExitCode]


def test_the_reasons_are_the_closed_set() -> None:
    told = [row[0].strip("`") for row in rows("When a session goes")]
    assert set(told) == {str(reason) for reason in Reason}
    assert len(told) == len(set(told))


def test_the_configuration_of_the_readme_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert ConfigFile.model_validate(tomllib.loads(example)).paths.cleanup.scratch_cleanup_days == 14


def test_every_option_in_the_readme_exists() -> None:
    shown = set(re.findall(r"arawn-cli [^\n`]*?(--[a-z-]+)", README))
    assert shown
    program = get_command(app)
    assert isinstance(program, TyperGroup)
    parameters = [*program.params, *(parameter for _, command in commands(program) for parameter in command.params)]
    assert shown <= {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}


def test_every_test_that_a_promise_names_exists() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", README)
    assert len(named) >= 12
    assert [name for name in named if f"def {name}(" not in tests] == []
