"""Options that several commands share."""

from __future__ import annotations

from typing import get_args

import pytest
from typer.core import TyperOption
from typer.testing import CliRunner

from arawn_cli.cli import app
from arawn_cli.cli.options import Format, Output
from tests.support.commands import PROGRAM, all_names, commands

WITH_FORMAT = [name for name, command in commands().items() if any("--json" in all_names(each) for each in command.params)]


@pytest.mark.parametrize("name", WITH_FORMAT)
def test_json_excludes_every_other_format(name: str) -> None:
    (option,) = (each for each in commands()[name].params if "--format" in all_names(each))
    assert isinstance(option, TyperOption)
    others = set(get_args(option.type_descriptor.annotation)) - {"auto", "json"}
    assert "table" in others
    for value in others:
        words = [*name.split()[1:], "--json", "--format", value]
        done = CliRunner().invoke(app.program(), words, prog_name=PROGRAM)
        assert (done.exit_code, f"--json and --format {value} exclude each other" in " ".join(done.output.split())) == (2, True)


def test_only_a_table_shows_no_event_when_it_happens() -> None:
    assert {each for each in Format if Output(format=each).event_printer() is None} == {Format.TABLE}
