"""The sample tree of the demo, for tests: see `arawn_cli.cli.demo`."""

from __future__ import annotations

from arawn_cli.cli.demo import SampleTree, build, set_age, write

__all__ = ["SampleTree", "build", "set_age", "write"]
