"""The help of every command on a small terminal, and the hints of a command line that names
none."""

from __future__ import annotations

import re

import pytest
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from arawn_cli.cli import app
from arawn_cli.cli.help import TOPICS, examples
from arawn_cli.errors import ExitCode
from tests.support.commands import PROGRAM, all_names, commands

# It has more options than lines.
TALL = {"arawn-cli scratch-cleanup": 33}


def answer(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app.program(), list(words), prog_name=PROGRAM, env={"COLUMNS": "80"})
    return done.exit_code, done.output


@pytest.mark.parametrize("name", commands())
def test_the_help_of_a_command_fits_a_small_terminal_and_has_each_option(name: str) -> None:
    code, text = answer(*name.removeprefix(PROGRAM).split(), "--help")
    assert code == 0
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= TALL.get(name, 24)
    command = commands()[name]
    for parameter in command.params:
        names = [each for each in all_names(parameter) if not each.startswith("--no-") and each not in ("--show-completion", "--system")]
        assert all(each in text for each in names if each.startswith("-")), names
        if isinstance(parameter, TyperOption) and parameter.is_flag and parameter.name not in ("json", "show_completion"):
            assert re.search(rf"{max(parameter.opts, key=len)}  +[A-Z]", text), "a flag takes no value"
    if not isinstance(command, TyperGroup):
        assert isinstance(command, TyperCommand)
        assert all(f"  {line}" in text for line in list(examples()[name])[:3])


def test_the_help_of_the_program_names_every_exit_code() -> None:
    _, text = answer("--help")
    assert TOPICS in text
    assert all(f" {int(code)}" in TOPICS for code in ExitCode)
    assert set(get_command(app.program()).commands) <= set(text.split())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["status"], "Did you mean arawn-cli disk-check or arawn-cli schedule status?"),
        (["cleanup"], "Did you mean arawn-cli scratch-cleanup?"),
        (["restore", "x"], "Did you mean arawn-cli trash restore?"),
        (["disk-chek"], "Did you mean 'disk-check'?"),
        (["--config", "a b", "disk-check", "-n"], "arawn-cli disk-check --config 'a b' -n"),
        (["-v", "report"], "arawn-cli report -v"),
    ],
)
def test_a_wrong_command_line_gets_a_hint(words: list[str], hint: str) -> None:
    code, text = answer(*words)
    assert code == 2
    assert hint in text


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["-V", "-v"]])
def test_the_version_needs_no_command(words: list[str]) -> None:
    code, text = answer(*words)
    assert code == 0
    assert text.startswith("arawn-cli ")
