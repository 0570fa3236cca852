"""Both jobs at work on a sample tree: what a first look at the tool shows."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tomli_w
from rich.console import Console

from arawn_cli.errors import ExitCode
from arawn_cli.sample_tree import SampleTree, set_age, write

_MB = 1_000_000
_BLOG = "7b1f3a52-9c6e-4d0b-8f27-1a5f0c3e9d11"
_THESIS = "c2d84e90-55a1-4b7c-9e3d-60f1b2a7c8e4"

_STEPS = (
    ("What would go? A dry run changes nothing.", ["scratch-cleanup", "--dry-run", "--verbose"]),
    ("Now for real: each inactive session is moved away in one rename, then deleted.", ["scratch-cleanup"]),
    ("Who uses the disk? Limits are low here, so that something is above them.", ["disk-check"]),
)


def run_demo(*, keep: bool) -> ExitCode:
    """Builds a sample tree in a temporary folder and runs a dry run, a cleanup and a disk check on it."""
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="arawn-demo-"))
    try:
        config = build(folder, time.time_ns())
        console.print(f"A sample Arawn root: {folder / 'arawn'}")
        codes = [_step(console, explanation, [*arguments, "--config", str(config)]) for explanation, arguments in _STEPS]
    finally:
        if not keep:
            shutil.rmtree(folder)
    console.print(f"\nThe tree stays in {folder}." if keep else "\nThe sample tree is removed again; --keep leaves it in place.")
    return next((ExitCode(code) for code in codes if code), ExitCode.DONE)


def build(folder: Path, now: int) -> Path:
    """Builds the sample tree in `<folder>/arawn` and a configuration for it, whose path is the answer."""
    tree = SampleTree(folder / "arawn", now)
    _workstreams(tree)
    _sessions(tree)
    config = folder / "config.toml"
    limits = {"total_warning_gb": 0.1, "workstream_warning_gb": 0.01, "session_warning_mb": 4}
    tables = {
        "paths": {"base_path": str(tree.root), "usage": limits, "cleanup": {"scratch_cleanup_days": 7}},
        "maintenance": {
            "state_dir": str(folder / "state"),
            "cleanup": {"protect": ["keep-*"]},
            "pressure": {"limits": {"My blog": "20MiB"}},
        },
    }
    config.write_text(tomli_w.dumps(tables))
    return config


def _workstreams(tree: SampleTree) -> None:
    tree.workstream(_BLOG, "My blog", {"production/site.tar": 6 * _MB, "work/drafts/photos.bin": 9 * _MB, "messages.jsonl": 40_000})
    tree.workstream(_THESIS, "Thesis", {"production/thesis.pdf": 2 * _MB, "work/data/survey.csv": 21 * _MB})


def _sessions(tree: SampleTree) -> None:
    """Sessions of several ages: who was used, when, and what tells of it."""
    tree.session("old-and-forgotten", files={"report.md": 12_000, "dataset.csv": 3 * _MB}, age_days=41)
    tree.session("no-row-no-message", files={"notes.txt": 700}, age_days=30)
    tree.session("long-lived", files={"model.bin": 5 * _MB}, age_days=60)
    tree.session("edited-an-hour-ago", files={"draft.md": 4_000}, age_days=20)
    tree.session("keep-for-audit", files={"evidence.log": 90_000}, age_days=80)
    tree.session("yesterday", files={"plot.svg": 250_000}, age_days=1)
    for session, started in (("old-and-forgotten", 41), ("long-lived", 60), ("edited-an-hour-ago", 20), ("keep-for-audit", 80)):
        tree.session_row(session, tree.ago(started))
        tree.turn(session, tree.ago(started))
    tree.turn("long-lived", tree.ago(1))
    tree.turn("yesterday", tree.ago(1))
    write(tree.sessions / "edited-an-hour-ago" / "work" / "draft.md", 4_100)
    set_age(tree.sessions / "edited-an-hour-ago" / "work" / "draft.md", tree.ago(1 / 24))


def _step(console: Console, explanation: str, arguments: list[str]) -> int:
    console.print(f"\n[bold]{explanation}[/bold]")
    console.print(f"[dim]$ arawn-cli {shlex.join(arguments)}[/dim]", soft_wrap=True)
    return subprocess.run([sys.executable, "-m", "arawn_cli", *arguments, "--format", "table"], check=False).returncode
