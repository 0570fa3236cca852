"""Something that happens right before each look of a cleanup at a session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arawn_cli.cleanup import job
from arawn_cli.cleanup.evidence import Activity
from arawn_cli.cleanup.sessions import Decision, ScratchSession

Look = Callable[[ScratchSession, int, str], Decision]


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[str], None]) -> None:
    """Lets something happen right before each look at a session, told the name it has then."""
    original = job._look_with

    def with_disturbance(activity: Activity) -> Look:
        look: Look = original(activity)

        def disturbed(session: ScratchSession, directory: int, name: str) -> Decision:
            disturbance(name)
            return look(session, directory, name)

        return disturbed

    monkeypatch.setattr(job, "_look_with", with_disturbance)
