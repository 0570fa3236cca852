"""The file that `config init` writes: every key with its description and default, commented out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import reduce
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.config.schema import ConfigFile, fields_of, tables_in
from arawn_cli.config.template import template
from tests.support.arawn_servers import KEYS

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
