"""Something that happens right before a cleanup checks planned sessions again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from arawn_cli.cleanup.removal import Candidate, SessionRemover
from arawn_cli.cleanup.sessions import Outcome
from arawn_cli.fs.openat import Identity


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[str], None]) -> None:
    """Call `disturbance` for each session, with its present name, right before a batch is checked,
    and again before it is confirmed."""
    original = SessionRemover._recheck

    def disturbed(
        remover: SessionRemover, candidates: Sequence[Candidate], directory: int, *, measure_again: bool
    ) -> dict[Identity, Outcome]:
        for candidate in candidates:
            disturbance(candidate.name)
        return original(remover, candidates, directory, measure_again=measure_again)

    monkeypatch.setattr(SessionRemover, "_recheck", disturbed)
