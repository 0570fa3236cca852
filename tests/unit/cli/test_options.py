"""Options that several commands share."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from arawn_cli.cli import app
from arawn_cli.cli.options import CheckFormat, Format, Output
from tests.support.commands import PROGRAM, all_names, commands

WITH_FORMAT = [name for name, command in commands().items() if any("--json" in all_names(each) for each in command.params)]


@pytest.mark.parametrize("name", WITH_FORMAT)
def test_json_excludes_every_other_format(name: str) -> None:
    others: dict[str, list[str]] = {"disk-check": ["table", "nagios", "none"], "report": []}  # a report has no other
    for value in others.get(name.removeprefix(f"{PROGRAM} "), ["table", "none"]):
        words = [*name.split()[1:], "--json", "--format", value]
        done = CliRunner().invoke(app.program(), words, prog_name=PROGRAM)
        assert (done.exit_code, f"--json and --format {value} exclude each other" in " ".join(done.output.split())) == (2, True)


def test_each_shared_format_prints_events_or_is_a_table() -> None:
    kinds = {each.value: Output(format=each.value).event_printer() is None for each in Format if each is not Format.AUTO}
    assert kinds == {"table": True, "json": False, "none": False}
    assert {each.value for each in CheckFormat} == {each.value for each in Format} | {"nagios"}
    with pytest.raises(ValueError, match="no output prints the format xml"):
        Output(format="xml").event_printer()
