"""Something that happens right before a cleanup checks a planned session again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arawn_cli.cleanup import removal
from arawn_cli.cleanup.chats import ChatNeeds
from arawn_cli.cleanup.evidence import Evidence
from arawn_cli.cleanup.sessions import Decision, ScratchSession


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[str], None]) -> None:
    """Call `disturbance` right before each check of a session, with its present name."""
    original = removal.recheck

    def disturbed(session: ScratchSession, evidence: Evidence, directory: int, name: str, needs: ChatNeeds | None) -> Decision:
        disturbance(name)
        return original(session, evidence, directory, name, needs)

    monkeypatch.setattr(removal, "recheck", disturbed)
