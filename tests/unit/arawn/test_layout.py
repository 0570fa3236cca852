"""The layout of a root: by its database, by its tree, and refused if neither says it for
certain."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from arawn_cli.arawn.layout import MAIN, V0, Layout
from arawn_cli.arawn.root import opened_root
from arawn_cli.errors import ConfigurationError, RefusedError

UUID = "098ee2f4-32b5-411e-a7ec-e73a77d25aed"
V0_DATABASE = "workstreams(id TEXT, title TEXT)"
MAIN_DATABASE = "workstreams(id TEXT, name TEXT)"
V0_TREE = ("scratch/sessions/", "scratch/messages.jsonl")
MAIN_TREE = (f"scratch/{UUID}/messages.jsonl", "scratch/memory.db")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "workstreams").mkdir(parents=True)
    return tmp_path / "root"


def add(root: Path, *names: str) -> None:
    for name in names:
        path = root / "workstreams" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()


def database(path: Path, table: str) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE {table}")
    return path


def found(root: Path, *databases: Path) -> tuple[Layout, Path | None]:
    with opened_root(root, databases) as opened:
        return opened.layout, opened.database


@pytest.mark.parametrize(
    ("table", "tree", "layout"),
    [
        (V0_DATABASE, V0_TREE, V0),
        (V0_DATABASE, (), V0),
        (V0_DATABASE, ("scratch/",), V0),
        (V0_DATABASE, ("blog/",), V0),
        (V0_DATABASE, (*V0_TREE, *MAIN_TREE), V0),
        (MAIN_DATABASE, MAIN_TREE, MAIN),
        (MAIN_DATABASE, (), MAIN),
        (MAIN_DATABASE, ("thesis/work/", "thesis/messages.jsonl"), MAIN),  # files of an agent
        (MAIN_DATABASE, (*V0_TREE, *MAIN_TREE), MAIN),
    ],
)
def test_the_columns_of_the_database_decide(root: Path, table: str, tree: Sequence[str], layout: Layout) -> None:
    add(root, *tree)
    path = database(root.parent / "any.db", table)
    assert found(root, root / "missing.db", path) == (layout, path)


@pytest.mark.parametrize(
    ("tree", "layout"),
    [
        ((), V0),
        (("scratch/sessions/",), V0),
        (("scratch/messages.jsonl",), V0),
        (("blog/work/",), V0),
        (("blog/production/",), V0),
        ((f"scratch/{UUID}/messages.jsonl",), MAIN),
        ((f"thesis/{UUID}/messages.jsonl", "thesis/notes.md"), MAIN),
    ],
)
@pytest.mark.parametrize("unreadable", [False, True])
def test_without_a_readable_database_the_tree_decides(root: Path, tree: Sequence[str], layout: Layout, unreadable: bool) -> None:
    add(root, *tree)
    path = root.parent / "any.db"
    if unreadable:
        path.write_text("no database")
    assert found(root, path) == (layout, path if unreadable else None)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ((*V0_TREE, *MAIN_TREE), "the files of both generations of Arawn"),
        (("scratch/",), "the files of neither generation of Arawn"),
        (("scratch/notes.md", "photos/2024/a.jpg"), "the files of neither generation of Arawn"),
        ((f"scratch/{UUID}/notes.md",), "the files of neither generation of Arawn"),
    ],
)
def test_a_tree_of_both_or_neither_is_refused(root: Path, tree: Sequence[str], said: str) -> None:
    add(root, *tree)
    with pytest.raises(ConfigurationError, match=said):
        found(root)


@pytest.mark.parametrize(("table", "tree"), [(V0_DATABASE, MAIN_TREE), (MAIN_DATABASE, V0_TREE)])
def test_a_database_of_the_other_generation_is_refused(root: Path, table: str, tree: Sequence[str]) -> None:
    """Its sessions would not be found, and a run would say that there are none."""
    add(root, *tree)
    with pytest.raises(ConfigurationError, match=r"any\.db is a database of Arawn"):
        found(root, database(root.parent / "any.db", table))


@pytest.mark.parametrize(("tree", "name"), [(V0_TREE, "workstreams.db"), (MAIN_TREE, "arawn.db")])
def test_with_databases_of_both_generations_the_tree_decides(root: Path, tree: Sequence[str], name: str) -> None:
    databases = (database(root / "workstreams.db", V0_DATABASE), database(root / "arawn.db", MAIN_DATABASE))
    add(root, *tree)
    assert found(root, *databases)[1] == root / name
    add(root, *(V0_TREE if tree == MAIN_TREE else MAIN_TREE))
    with pytest.raises(ConfigurationError, match="both generations"):
        found(root, *databases)


def test_the_empty_root_of_a_new_server_is_one_if_a_database_belongs_to_it(tmp_path: Path) -> None:
    root = tmp_path / "workstreams"
    root.mkdir()
    with pytest.raises(RefusedError, match="has no workstreams/ folder"):
        found(root)
    path = database(tmp_path / "workstreams.db", V0_DATABASE)
    assert found(root, path) == (V0, path)
    (root / "file").touch()
    with pytest.raises(RefusedError, match="has no workstreams/ folder"):
        found(root, path)
