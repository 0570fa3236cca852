"""The file that `config init` writes: every key with its description and default, commented out."""

from __future__ import annotations

import re
import tomllib
from functools import reduce
from typing import Any

from arawn_cli.config.schema import ConfigFile, fields_of, tables_in
from arawn_cli.config.template import template

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
    plain = " ".join(text.replace("\n# ", " ").split())
    for key, field in FIELDS.items():
        if field.description:
            assert re.search(rf"^# (\[\[?{re.escape(key)}\]|{key.rpartition('.')[2]} = )", text, re.MULTILINE), key
            assert field.description in plain, key


def test_the_file_means_what_holds_without_it_also_if_its_keys_are_uncommented() -> None:
    assert ConfigFile.model_validate(tomllib.loads(template())) == ConfigFile()
    given, default = (tables.model_dump() for tables in (ConfigFile.model_validate(tomllib.loads(uncommented())), ConfigFile()))
    keys = [key for key, field in FIELDS.items() if field.description and not field.examples and not key.startswith("maintenance.roots")]
    assert {key: at(given, key) for key in keys} == {key: at(default, key) for key in keys}
