"""A configuration file with every key, its meaning and its default, commented out: what is not decided follows later versions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import tomli_w
from pydantic import BaseModel

from arawn_cli.config.meanings import meanings
from arawn_cli.config.schema import ConfigFile, NamedRoot

_WIDTH = 100


_HEAD = """\
# Arawn's configuration: [paths] and [workstream] are Arawn's own, [maintenance] is arawn-cli's.
# Each line that is commented out shows the default, or an example for a key that has none.
"""


_ROOTS = "maintenance.roots"


EXAMPLES: dict[str, object] = {
    "paths.base_path": "~/.arawn",
    "workstream.database": "workstreams.db",
    "workstream.data_dir": "workstreams",
    "maintenance.pressure.limits": {"my-blog": "5GiB"},
    "maintenance.roots.name": "lab",
    "maintenance.roots.path": "/srv/lab/arawn",
    "maintenance.roots.database": "/srv/lab/workstreams.db",
    "maintenance.roots.scratch_cleanup_days": 30,
    "maintenance.roots.total_warning_gb": 100.0,
    "maintenance.roots.workstream_warning_gb": 10.0,
    "maintenance.roots.session_warning_mb": 500.0,
    "maintenance.roots.limits": {"thesis": "50GiB"},
    "maintenance.roots.protect": ["keep-*"],
}
"""A value for keys that have no default, or an empty one that shows too little."""


def template() -> str:
    """The text of the file; with every comment that holds a key taken away it is a valid file too."""
    return "\n".join([_HEAD, *_table(ConfigFile(), "")])


def shown(value: object) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{name} = {shown(each)}" for name, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    written = tomli_w.dumps({"": list(value) if isinstance(value, tuple) else value}).partition(" = ")[2]
    return " ".join(written.split()).replace("[ ", "[").replace(", ]", "]")


def _table(table: BaseModel, prefix: str) -> Iterator[str]:
    inner: list[tuple[str, BaseModel]] = []
    mappings: list[str] = []
    for name in type(table).model_fields:
        key, value = f"{prefix}{name}", getattr(table, name)
        if isinstance(value, BaseModel):
            inner.append((key, value))
        elif key == _ROOTS or isinstance(value, dict):
            mappings.append(key)  # as tables of their own they stand behind the keys of this one
        else:
            yield from _entry(key, EXAMPLES.get(key, value))
    for key in mappings:
        yield from _roots() if key == _ROOTS else _mapping(key)
    for key, value in inner:
        yield f"[{key}]"
        yield from _table(value, f"{key}.")


def _entry(key: str, value: object) -> Iterator[str]:
    name = key.rpartition(".")[2]
    yield from _meaning(key)
    yield f"# {name} = {shown(value)}\n"


def _mapping(key: str) -> Iterator[str]:
    yield from _meaning(key)
    yield f"# [{key}]"
    yield from (f"# {name} = {shown(value)}" for name, value in _example(key).items())
    yield ""


def _roots() -> Iterator[str]:
    yield from _meaning(_ROOTS)
    yield f"# [[{_ROOTS}]]"
    for name in NamedRoot.model_fields:
        key = f"{_ROOTS}.{name}"
        yield f"# {name} = {shown(EXAMPLES[key])}  # {meanings()[key]}"
    yield ""


def _example(key: str) -> dict[str, object]:
    example = EXAMPLES[key]
    return example if isinstance(example, dict) else {}


def _meaning(key: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(meanings()[key], _WIDTH))
