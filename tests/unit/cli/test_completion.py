"""What a shell offers for a word that is being typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.tree import SampleTree

Command = Callable[..., Run]


def offered(run: Command, words: str, shell: str = "bash") -> list[str]:
    """The words that completion offers for the last of those that were typed."""
    last = len(words.split(" ")) - 1
    if shell == "bash":
        typed = {"_ARAWN_CLI_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(last)}
    else:
        typed = {"_ARAWN_CLI_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = run(**typed)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def configured(tree: SampleTree, tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(f"""
        paths.base_path = "{tree.root}"
        maintenance.cleanup.trash_days = 30
        [[maintenance.roots]]
        name = "lab"
        path = "{tmp_path}/lab"
        [[maintenance.roots]]
        name = "attic"
        path = "{tmp_path}/attic"
    """)
    return file


def test_the_commands_and_the_names_of_roots_are_offered(run: Command, configured: Path) -> None:
    assert offered(run, "arawn-cli tra") == ["trash"]
    assert offered(run, f"arawn-cli disk-check --config {configured} --root ") == ["lab", "attic"]
    assert offered(run, f"arawn-cli disk-check --config {configured} --root a") == ["attic"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_restoring_offers_the_sessions_in_the_trash(run: Command, tree: SampleTree, configured: Path, shell: str) -> None:
    for name in ("old-one", "old-two", "other"):
        tree.session(name, files={"f": 10}, age_days=60)
    assert run("scratch-cleanup", "--config", configured).code == 0
    told = " ".join(offered(run, f"arawn-cli trash restore --config {configured} old-", shell))
    assert "old-one" in told
    assert "old-two" in told
    assert "other" not in told


def test_what_cannot_be_read_offers_nothing_and_says_nothing(run: Command, tmp_path: Path) -> None:
    assert offered(run, f"arawn-cli trash restore --config {tmp_path}/missing.toml x") == []
    assert offered(run, f"arawn-cli disk-check --config {tmp_path}/missing.toml --root ") == []
