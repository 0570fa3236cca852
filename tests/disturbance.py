"""Something that happens right before each look of a cleanup at a session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arawn_cli import scratch_cleanup
from arawn_cli.activity import Activity
from arawn_cli.scratch_session import Decision, ScratchSession

Look = Callable[[ScratchSession, int, str], Decision]


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[str], None]) -> None:
    """Lets something happen right before each look at a session, told the name it has then."""
    original = scratch_cleanup._look_with

    def with_disturbance(activity: Activity) -> Look:
        look: Look = original(activity)

        def disturbed(session: ScratchSession, directory: int, name: str) -> Decision:
            disturbance(name)
            return look(session, directory, name)

        return disturbed

    monkeypatch.setattr(scratch_cleanup, "_look_with", with_disturbance)
