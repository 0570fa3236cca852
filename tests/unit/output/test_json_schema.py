"""The JSON Schemas accept what the program accepts, and what it writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from arawn_cli.config.schema import ConfigFile, fields_of
from arawn_cli.output.json_schema import config_schema, events_schema, plan_schema
from tests.conftest import Run
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
