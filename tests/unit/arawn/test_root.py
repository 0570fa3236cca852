"""The mounts in a root: what belongs to the tree, and what nobody enters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arawn_cli.arawn.root import bind_mount_commands
from tests.conftest import needs_namespaces
from tests.support.tree import SampleTree

# Mounts in random order in a tree, some over others; prints whether a budget and a check count the
# same, and what neither counts without knowing it.
MOUNTED = """
import os, random, subprocess, sys
from pathlib import Path
from arawn_cli.arawn.root import mounts_in, opened_root
from arawn_cli.cleanup.budget import workstreams_usage
from arawn_cli.config.loader import Flags, load
from arawn_cli.diskcheck.measuring import measure_root
from tests.support.in_process import NOWHERE, context
top, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
own = ["scratch/sessions", "scratch/messages.jsonl", "blog/sessions", "blog.bak/sessions"]
places = [*own, "blog", "blog.bak", "blog/work", "blog/production/deep", "scratch/sessions/s/work"]
for number, place in enumerate(chance.sample(places, 6)):
    point = top / "workstreams" / place
    if point.is_file():
        subprocess.run(["mount", "--bind", os.__file__, point], check=True)
        continue
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", point], check=True)
    (point / "file").write_bytes(bytes(4096 * (number + 1)))
config = load(Flags(base_path=str(top)), {}, system_file=NOWHERE)
with opened_root(top, ()) as root:
    mounts = {"/".join(names): is_own for names, is_own in mounts_in(root).items()}
    assert all(is_own is (place in own) for place, is_own in mounts.items()), mounts
    budget = workstreams_usage(root, 1, lambda _steps: None)
    check = measure_root(root, config, context(0, [], top / "state"), {}).total
    print(budget.apparent_bytes == check.apparent_bytes, budget.allocated_bytes == check.allocated_bytes, budget.other_filesystems)
"""


@needs_namespaces
@pytest.mark.parametrize("seed", range(6))
def test_a_budget_and_a_check_count_the_same_whatever_is_mounted(tree: SampleTree, seed: int) -> None:
    tree.session("s", files={"f": 10_000}, age_days=30)
    tree.workstream("blog", "My blog", {"production/a": 5000, "work/b": 7000, "messages": 10})
    tree.turn("s", tree.ago(30))
    command = ["unshare", "--mount", sys.executable, "-c", MOUNTED, str(tree.root), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.stdout == "True True ()\n", done.stderr


def test_a_bind_mount_replaces_the_link_and_not_the_file_behind_it(tree: SampleTree) -> None:
    away = tree.root / "away"
    away.mkdir()
    (away / "messages.jsonl").touch()
    link = tree.workstreams / "blog"
    link.symlink_to(away)
    expected = f"sudo rm {link} && sudo mkdir {link} && sudo mount --bind {away} {link}"
    assert [bind_mount_commands(path) for path in (link, link / "messages.jsonl")] == [expected] * 2
