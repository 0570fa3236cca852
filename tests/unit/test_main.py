"""The start of the program, until a command runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.support.tree import SampleTree

# Ctrl-C comes when a module is imported.
INTERRUPTED = """
import os, signal, sys
from arawn_cli.__main__ import main

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

module = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
main()
"""


@pytest.mark.parametrize(
    ("module", "log"),
    [
        ("arawn_cli.cli.app", ""),
        ("arawn_cli.diskcheck.job", ""),
        ("arawn_cli.output.report_text", "ERROR: interrupted\n"),  # the command imports it
    ],
)
def test_ctrl_c_ends_each_part_of_a_start_without_a_traceback(
    environment: Mapping[str, str], tree: SampleTree, module: str, log: str
) -> None:
    words = ("disk-check", "--dry-run", "--format", "table", "--base-path", str(tree.root))
    # A shell without job control ignores the signal in the background, and so would the program.
    command = ["env", "--default-signal=INT", sys.executable, "-c", INTERRUPTED, module, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, log)


def test_an_ignored_ctrl_c_stays_ignored(environment: Mapping[str, str]) -> None:
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{INTERRUPTED}"
    words = ("arawn_cli.cli.app", "--version")
    done = subprocess.run([sys.executable, "-c", ignoring, *words], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
