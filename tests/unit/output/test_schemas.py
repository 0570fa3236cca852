"""The JSON Schemas accept what the program accepts, and what it writes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.config.schema import ConfigFile, fields_of, tables_in
from arawn_cli.output.schemas import config_schema, events_schema, plan_schema, template
from tests.conftest import Run
from tests.support.arawn_servers import KEYS
from tests.support.tree import SampleTree

Command = Callable[..., Run]


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", True),
        ("[llm]\nmodel = 1\n[workstream]\nother = 1\n", True),
        ('[maintenance.pressure.limits]\nblog = "5GiB"\n', True),
        ("[paths.cleanup]\nscratch_cleanup_days = 0\n", False),
        ("[paths.usage]\ntotal_warning_gb = 0.5\n", False),
        ('[maintenance.schedule]\ndisk_check = "soon"\n', False),
        ('[maintenance.schedule]\ndisk_check = "weekly"\n', True),
        ('[maintenance.pressure]\nrepeat_interval = "6 hours"\n', False),
        ('[maintenance.pressure]\nrepeat_interval = "1h30m"\ntotal = "1.5 MiB"\nsession = "500M"\n', True),
        ('[maintenance.pressure]\ntotal = "5GiB/day"\n', False),
        ('[maintenance.schedule]\ndisk_check = "15min"\n', True),
        ('[maintenance.schedule]\ndisk_check = "0h0m"\n', False),
        ('[maintenance]\nio_class = "fast"\n', False),
        ('[[maintenance.roots]]\nname = "lab"\n', False),
        ('[[maintenance.roots]]\nname = "lab"\npath = "/srv/lab"\nscratch_cleanup_days = 3\n', True),
        ('[maintenance.relay]\ntoken = "x"\n', False),
    ],
)
def test_an_editor_with_the_schema_accepts_what_the_program_accepts(
    run: Command, tree: SampleTree, tmp_path: Path, text: str, accepted: bool
) -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema())
    assert jsonschema.Draft202012Validator(config_schema()).is_valid(tomllib.loads(text)) is accepted
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert (run("config", "show", "--config", file, "--base-path", tree.root).code == 0) is accepted


def test_each_key_of_the_schema_has_its_description_and_none_can_be_null() -> None:
    text = json.dumps(config_schema(), ensure_ascii=False)
    descriptions = {field.description for _, field in fields_of(ConfigFile) if field.description}
    assert [each for each in descriptions if json.dumps(each, ensure_ascii=False) not in text] == []
    assert "null" not in text


def test_events_fit_their_schema_and_others_do_not(run: Command, tree: SampleTree) -> None:
    tree.session("old", files={"f": 1000}, age_days=30)
    tree.workstream("blog", "Blog", {"work/f": 10})
    validator = jsonschema.Draft202012Validator(events_schema())
    validator.check_schema(events_schema())
    events = [
        *run("disk-check", "--base-path", tree.root).events,
        *run("scratch-cleanup", "--base-path", tree.root).events,
        *run("doctor", "--base-path", tree.root).events,
    ]
    assert {event["type"] for event in events} >= {"disk_check", "workstream_usage", "scratch_session", "scratch_cleanup", "doctor_check"}
    for event in events:
        validator.validate(event)
        assert not validator.is_valid({key: value for key, value in event.items() if key != "host"})
        assert not validator.is_valid({**event, "type": "something"})
        for key in {"level", "unit", "action", "reason", "status"} & event.keys():
            assert not validator.is_valid({**event, key: "something"})


def test_a_plan_fits_its_schema(run: Command, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("old", files={"f": 1000}, age_days=30)
    run("scratch-cleanup", "--dry-run", "--plan-out", tmp_path / "plan.json", "--base-path", tree.root)
    plan = json.loads((tmp_path / "plan.json").read_text())
    validator = jsonschema.Draft202012Validator(plan_schema())
    validator.validate(plan)
    assert not validator.is_valid({**plan, "version": 2})


FIELDS = dict(fields_of(ConfigFile))


def uncommented() -> str:
    return re.sub(r"^# (?=\[|\w+ = )", "", template(), flags=re.MULTILINE)


def at(tables: dict[str, Any], key: str) -> object:
    return reduce(lambda table, name: table[name], key.split("."), tables)


def test_each_key_has_a_description_unless_its_value_is_one_table() -> None:
    without = {key for key, field in FIELDS.items() if not field.description}
    assert without == {key for key, field in FIELDS.items() if next(tables_in(field.annotation), None) is field.annotation}
    assert all(re.fullmatch(r"\S[^\n]+[^.\s]", field.description or "") for key, field in FIELDS.items() if key not in without)


def test_each_key_stands_in_the_file_with_its_description() -> None:
    text = template()
    plain = " ".join(text.replace("\n## ", " ").split())
    for key, field in FIELDS.items():
        if field.description and not key.startswith("storage."):  # a table of arawn.toml, without a default to show
            assert re.search(rf"^# (\[\[?{re.escape(key)}\]|{key.rpartition('.')[2]} = )", text, re.MULTILINE), key
            assert field.description in plain, key


def test_the_file_means_what_holds_without_it_also_if_its_keys_are_uncommented() -> None:
    assert ConfigFile.model_validate(tomllib.loads(template())) == ConfigFile()
    given, default = (tables.model_dump() for tables in (ConfigFile.model_validate(tomllib.loads(uncommented())), ConfigFile()))
    keys = [key for key, field in FIELDS.items() if field.description and not field.examples and not key.startswith("maintenance.roots")]
    assert keys
    assert {key: at(given, key) for key in keys} == {key: at(default, key) for key in keys}


def leaves(tables: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


ARAWN = dict(leaves(tomllib.loads(KEYS.read_text())))
LINES = template().splitlines()
COMMENTED = [number for number, line in enumerate(LINES) if line.startswith("#")]


def arawn_accepts(text: str) -> None:
    """Every key in Arawn's tables has the type of that key in a file that Arawn accepted."""
    for key, value in leaves({name: table for name, table in tomllib.loads(text).items() if name != "maintenance"}):
        assert type(value) is type(ARAWN[key]), key


def with_lines(numbers: set[int]) -> str:
    """The file, with these lines uncommented as an editor does it."""
    return "\n".join(re.sub("^# ?", "", line) if number in numbers else line for number, line in enumerate(LINES))


@given(st.sets(st.sampled_from(COMMENTED)))
def test_arawn_accepts_the_file_with_any_of_its_lines_uncommented(numbers: set[int]) -> None:
    arawn_accepts(with_lines(numbers))


def test_arawn_accepts_the_file_with_each_line_and_with_all_lines_uncommented() -> None:
    arawn_accepts(with_lines(set(COMMENTED)))
    for number in COMMENTED:
        arawn_accepts(with_lines({number}))
        arawn_accepts(with_lines(set(COMMENTED) - {number}))
