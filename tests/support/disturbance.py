"""Something that happens right before a cleanup checks planned sessions again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from arawn_cli.cleanup.removal import Candidate, SessionRemover


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[str], None]) -> None:
    """Call `disturbance` for each session, with its present name, right before a batch is checked,
    and again before it is confirmed."""
    original = SessionRemover._reread_evidence

    def disturbed(remover: SessionRemover, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            disturbance(candidate.trash_name or candidate.session.name)
        original(remover, candidates)

    monkeypatch.setattr(SessionRemover, "_reread_evidence", disturbed)
